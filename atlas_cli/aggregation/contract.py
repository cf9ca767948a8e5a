"""What every aggregation method works on. One file a method in this folder.

A method file defines

    SENT: tuple[str, ...]              parts that a client uploads: "A", "B"
    DELIVERED: tuple[str, ...]         parts that are sent down after a merge; the rest a receiver has or draws itself
    TRAINED: tuple[str, ...]           parts that clients train
    GROUP_ADAPTER: bool                whether there is an adapter of the group to predict with and to export
    CHANGES_BASE: bool                 whether a merge changes the frozen weights of the group's clients
    Options                            a config section: what ``aggregation.options`` may say
    aggregate(current, updates, context)   the merge, from the group's adapter before and what clients sent
    deliver(merged, held, ranks)       what one client gets, cut to its ranks

and, where clients are not weighed by ``aggregation.weights`` (hetlora, trimmed-mean and median do not)

    UNWEIGHTED: str                    what is done instead, after the method's name

and may define (hetlora does)

    penalty(adapters, options)         what a client adds to its local loss, differentiable
    pruned(sent, trained, options)     ranks by layer that a client keeps after a round

or, where a client draws itself what it begins again with (flora does),

    anew(before, path, seed, group, number)   one layer of it, after the merge of round ``number``

or, where clients are merged by rank of their values and not by weight (trimmed-mean and median do),

    centre(values, options)            of values (K, ...) over K clients: what heads are merged with, too
    caution(n_clients, options)        why so few clients make it an ordinary mean; None where they do not

All speak of scale-free factors: the sender's scale s_k is absorbed into B before aggregating (B_k <- s_k B_k) and
divided out for the receiver after, so that equal products mean equal updates whatever rank and alpha a client has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from atlas_cli.config.schema.section import Section
from atlas_cli.models.adapters.lora import AdapterSet

PARTS = ("A", "B")


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
    """What one client sent at the end of a round.

    Attributes:
        weight: its share before it is normalised: examples, or label tokens.
        adapters: as trained; a part that the method does not upload is the server's own idea of it. The round began
            with the first r rows and columns of the group's adapter.
    """

    client: str
    weight: float
    adapters: Adapters


@dataclass(frozen=True)
class Context:
    """What a merge may depend on besides adapters.

    Attributes:
        options: an instance of the method's ``Options``.
        server_memory: bytes that the merge of one layer may take; None: no limit.
    """

    options: Section
    seed: int
    group: str
    round: int
    server_memory: int | None = None


@dataclass(frozen=True)
class Merge:
    """The result of a merge.

    Attributes:
        adapters: the group's new adapter, every layer in the shapes of the one before.
        base: change of the frozen weights of every client of the group, as stacked factors.
        target: what would be delivered if no rank were cut, for the error ledger; None: ``adapters``.
    """

    adapters: dict[str, Factors]
    base: dict[str, Factors] = field(default_factory=dict)
    target: dict[str, Factors] | None = None


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
