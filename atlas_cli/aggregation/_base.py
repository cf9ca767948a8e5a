"""What every aggregation method works on. One file a method in this folder.

A method file defines

    SHARED: bool                       whether there is a group adapter that all clients of the group get
    aggregate(current, updates)        the group's new adapter, from the one before and what clients sent
    deliver(merged, held, ranks)       what one client gets, cut to its ranks

All three speak of scale-free factors: the sender's scale s_k is absorbed into B before aggregating (B_k <- s_k B_k)
and divided out for the receiver after, so that equal products mean equal updates whatever rank and alpha a client
has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from atlas_cli.models.lora import AdapterSet


class Factors(NamedTuple):
    """dW = B @ A of one layer, scale absorbed: A (r, d_in), B (d_out, r)."""

    A: Tensor
    B: Tensor

    @property
    def rank(self) -> int:
        """r."""
        return self.A.shape[0]


Adapters = Mapping[str, Factors]


@dataclass(frozen=True)
class Update:
    """What one client sent at the end of a round; ``weight`` is its examples (or label tokens)."""

    client: str
    weight: float
    adapters: Adapters


def absorb(state: Mapping[str, Tensor], scales: Mapping[str, float]) -> dict[str, Factors]:
    """Tensors as sent (``<path>.lora_A``, ``<path>.lora_B``) to scale-free factors."""
    return {path: Factors(state[f"{path}.lora_A"], scale * state[f"{path}.lora_B"]) for path, scale in scales.items()}


def release(adapters: Adapters, scales: Mapping[str, float]) -> dict[str, Tensor]:
    """Scale-free factors to tensors as a receiver with these scales holds them."""
    state = {}
    for path, scale in scales.items():
        state[f"{path}.lora_A"] = adapters[path].A.clone()
        state[f"{path}.lora_B"] = adapters[path].B / scale
    return state


def scales_of(adapters: AdapterSet) -> dict[str, float]:
    """The scale of every adapter of a set."""
    return {path: adapter.scaling for path, adapter in adapters.adapters.items()}


def truncated(merged: Adapters, ranks: Mapping[str, int]) -> dict[str, Factors]:
    """The first r rows of A and columns of B of each layer in ``ranks``."""
    return {path: Factors(merged[path].A[:rank], merged[path].B[:, :rank]) for path, rank in ranks.items()}


def delta(factors: Factors) -> Tensor:
    """dW (d_out, d_in) as a dense matrix."""
    return factors.B @ factors.A
