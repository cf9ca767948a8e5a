"""Work, bytes and time of a step through the split, from shapes alone.

FLOPs count a multiplication and an addition as two. Notation: B batch, T tokens (padding included), d hidden size,
d_q and d_kv widths of query and of key or value, f feed-forward width, V vocabulary. A block's forward, per token:

    GPT-2, BERT    8 d^2 + 4 d f + 4 T d
    LLaMA          4 d d_q + 4 d d_kv + 6 d f + 4 T d_q

and 2 r (d_in + d_out) for an adapter. The weights are frozen, so the backward of a linear layer is one product of the
same size, of attention two and a half (scores are computed anew, and both of their operands have a gradient), of an
adapter two (its weights and its input). Below the lowest adapter nothing is computed backward. Norms, activation
functions, softmax and embeddings are left out: they are a few percent of a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from atlas_cli.federation.protocol import serialized_size
from atlas_cli.models.families._base import Family
from atlas_cli.planning.devices import Device
from atlas_cli.privacy.mechanisms.compress import encoded

ATTENTION_BACKWARD = 2.5


@dataclass(frozen=True)
class Work:
    """FLOPs of one step: forward, and backward with what checkpointing computes again."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        """Both."""
        return self.forward + self.backward

    def __add__(self, other: Work) -> Work:
        return Work(self.forward + other.forward, self.backward + other.backward)


@dataclass(frozen=True)
class StepBytes:
    """What a client and the server exchange in one step, as serialised, and in how many messages each way."""

    up: int
    down: int
    messages_up: int
    messages_down: int


def linear_flops(hf_config: Any) -> int:
    """Forward FLOPs of a block's frozen linear layers, per token."""
    d, f = int(hf_config.hidden_size), _feed_forward(hf_config)
    if not _gated(hf_config):
        return 8 * d * d + 4 * d * f
    d_q, d_kv = _attention_widths(hf_config)
    return 4 * d * d_q + 4 * d * d_kv + 6 * d * f


def attention_flops(hf_config: Any, tokens: int) -> int:
    """Forward FLOPs of scores and of their product with the values, per token; a causal mask saves nothing."""
    return 4 * tokens * _attention_widths(hf_config)[0]


def block_flops(hf_config: Any, tokens: int) -> int:
    """Forward FLOPs of one block without adapters, per token."""
    return linear_flops(hf_config) + attention_flops(hf_config, tokens)


def adapter_flops(ranks: Mapping[str, int], features: Mapping[str, tuple[int, int]]) -> int:
    """Forward FLOPs of a set of adapters, per token."""
    return sum(2 * rank * sum(features[path]) for path, rank in ranks.items())


def head_flops(numbers: int, positions: int) -> Work:
    """A trained or frozen linear head of ``numbers`` weights at ``positions`` tokens (or examples).

    For the output embedding of a language model, ``numbers`` is d V and nothing of it is trained.
    """
    return Work(2 * numbers * positions, 2 * numbers * positions)


def client_step(
    family: Family,
    hf_config: Any,
    cut: int,
    ranks: Mapping[str, int],
    features: Mapping[str, tuple[int, int]],
    batch: int,
    tokens: int,
    *,
    checkpointing: bool = False,
) -> Work:
    """FLOPs of a client that holds blocks ``0 .. cut-1``.

    Args:
        ranks, features: adapters by path in the base, as in ``planning.plan``.
        batch, tokens: of a batch, padding included.
        checkpointing: every block that has a backward runs its forward again.
    """
    layers = {_layer(family, path) for path in ranks}
    lowest = min(layers, default=cut)
    work = _blocks(hf_config, cut, cut - lowest, ranks, features, batch, tokens)
    if layers:
        # nothing below needs a gradient, so that of the lowest block's input is not computed
        bottom = {path: rank for path, rank in ranks.items() if _layer(family, path) == lowest}
        saved = _projections(hf_config) + sum(2 * rank * features[path][0] for path, rank in bottom.items())
        work = Work(work.forward, work.backward - batch * tokens * saved)
    if not checkpointing:
        return work
    again = (cut - lowest) * block_flops(hf_config, tokens) + adapter_flops(ranks, features)
    return work + Work(0, batch * tokens * again)


def server_step(
    family: Family,
    hf_config: Any,
    cut: int,
    n_layers: int,
    ranks: Mapping[str, int],
    features: Mapping[str, tuple[int, int]],
    batch: int,
    tokens: int,
) -> Work:
    """FLOPs of the server for one batch of one client: blocks ``cut ..``, without a head (``head_flops``).

    The gradient goes down to the cut whatever the server trains.
    """
    return _blocks(hf_config, n_layers - cut, n_layers - cut, ranks, features, batch, tokens)


def step_bytes(
    hf_config: Any,
    batch: int,
    tokens: int,
    dtype: str = "float32",
    *,
    label_numbers: int = 1,
    labels: Literal["server", "client"] = "server",
    features: str | None = None,
    compress: str = "none",
) -> StepBytes:
    """Bytes of one step, equal to the ledger's for batches of this size; they do not depend on the cut.

    Args:
        dtype: of the activations at the cut and of their gradients.
        label_numbers: int64 numbers an example: 1 for a class, T for tags or language modelling, 2 for spans.
        labels: "client": a U-shaped split, four messages and no labels.
        features: dtype of what the server half gives in a U-shaped split; default: ``dtype``.
        compress: as ``privacy.compress`` has it.
    """
    element = getattr(torch, dtype)
    hidden = torch.empty(batch, tokens, int(hf_config.hidden_size), dtype=element, device="meta")
    up: dict[str, Tensor] = {
        "activations": hidden,
        "attention_mask": torch.empty(batch, tokens, dtype=torch.bool, device="meta"),
    }

    def sent(tensors: dict[str, Tensor]) -> int:
        return serialized_size(tensors if compress == "none" else encoded(tensors, compress))

    down = sent({"gradients": hidden})
    if labels == "server":
        shape = (batch,) if label_numbers == 1 else (batch, label_numbers)
        up["labels"] = torch.empty(shape, dtype=torch.int64, device="meta")
        return StepBytes(sent(up), down, 1, 1)
    count = torch.empty((), dtype=torch.int64, device="meta")
    above = hidden if features is None else hidden.to(getattr(torch, features))
    up_again = sent({"gradients": above, "count": count})
    return StepBytes(sent(up) + up_again, down + sent({"features": above}), 2, 2)


def compute_seconds(flops: float, device: Device) -> float:
    """Time of some work on a device.

    Raises:
        ValueError: its rate is not known.
    """
    return flops / _known(device, "compute")


def upload_seconds(size: float, messages: int, device: Device, server: Device | None = None) -> float:
    """Time to send ``size`` bytes in so many messages; the slower of the two ends decides, latencies add up.

    Raises:
        ValueError: the device's uplink is not known.
    """
    rate = min(_known(device, "uplink"), _or(server, "downlink", float("inf")))
    return 8 * size / rate + messages * (_or(device, "latency", 0.0) + _or(server, "latency", 0.0))


def download_seconds(size: float, messages: int, device: Device, server: Device | None = None) -> float:
    """As ``upload_seconds``, in the other direction."""
    rate = min(_known(device, "downlink"), _or(server, "uplink", float("inf")))
    return 8 * size / rate + messages * (_or(device, "latency", 0.0) + _or(server, "latency", 0.0))


def _blocks(
    hf_config: Any,
    blocks: int,
    blocks_backward: int,
    ranks: Mapping[str, int],
    features: Mapping[str, tuple[int, int]],
    batch: int,
    tokens: int,
) -> Work:
    linear, attention = linear_flops(hf_config), attention_flops(hf_config, tokens)
    adapters = adapter_flops(ranks, features)
    forward = blocks * (linear + attention) + adapters
    backward = blocks_backward * (linear + ATTENTION_BACKWARD * attention) + 2 * adapters
    return Work(batch * tokens * forward, batch * tokens * backward)


def _projections(hf_config: Any) -> int:
    """Query, key and value of one token, forward or backward."""
    d_q, d_kv = _attention_widths(hf_config)
    return 2 * int(hf_config.hidden_size) * (d_q + 2 * d_kv)


def _layer(family: Family, path: str) -> int:
    return int(path[len(family.blocks) + 1 :].split(".", 1)[0])


def _gated(hf_config: Any) -> bool:
    """Whether the feed-forward has three matrices, as LLaMA's and its relatives'."""
    return hf_config.model_type in ("llama", "mistral", "qwen2", "qwen3")


def _feed_forward(hf_config: Any) -> int:
    for name in ("intermediate_size", "n_inner", "hidden_dim"):
        width = getattr(hf_config, name, None)
        if width is not None:
            return int(width)
    return 4 * int(hf_config.hidden_size)


def _attention_widths(hf_config: Any) -> tuple[int, int]:
    """Width of all queries, and of all keys (or values)."""
    heads = int(hf_config.num_attention_heads)
    width = int(getattr(hf_config, "head_dim", None) or int(hf_config.hidden_size) // heads)
    return heads * width, int(getattr(hf_config, "num_key_value_heads", None) or heads) * width


def _known(device: Device, figure: str) -> float:
    value: float | None = getattr(device, figure)
    if value is None:
        raise ValueError(f"device {device.name} has no {figure}; simulated time needs it")
    return value


def _or(device: Device | None, figure: str, default: float) -> float:
    value = getattr(device, figure) if device is not None else None
    return default if value is None else value
