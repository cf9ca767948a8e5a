"""How parameters cross the wire: named tensors in the parts of a codec, all of a message in one tensor a part.

What a codec takes for a token is a component of an adapter (a row of A, a column of B), a row of another matrix, or a
vector. Both ends know names and shapes, so that neither is sent.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor

from atlas_cli.config.schema.wire import WireConfig
from atlas_cli.wire.codecs import codec_of
from atlas_cli.wire.codecs.contract import BaseCodec, Layout, Part
from atlas_cli.wire.lost import Lost

Shapes = Mapping[str, tuple[int, ...]]
Tensors = Mapping[str, Tensor]

# sent beside the parts where the other end does not know them
RANKS = "ranks"  # of adapters
COUNTS = "rows"  # of each layer and merge, that were added to the base


class Coded(NamedTuple):
    """Tensors as a codec sends them: its parts, what the other end decodes, and what was lost."""

    parts: dict[str, Tensor]
    decoded: dict[str, Tensor]
    lost: Lost


class ParameterCodec:
    """Encodes and decodes the parameters of one kind of message.

    Args:
        codec: one that encodes each token by itself (``BaseCodec.by_token``).
    """

    def __init__(self, codec: BaseCodec) -> None:
        self._codec = codec

    @classmethod
    def of(cls, wire: WireConfig, name: str) -> Self | None:
        """That of ``adapters`` or ``deliveries`` in a config; None where they are sent as they are.

        Raises:
            ConfigError: as ``wire.codecs.codec_of``.
        """
        asked = wire.of_parameters().get(name)
        return None if asked is None else cls(codec_of(asked, f"wire.{name}"))

    @property
    def encode_flops(self) -> float:
        """FLOPs of encoding a number; ``decode_flops`` of decoding one."""
        return self._codec.encode_flops

    @property
    def decode_flops(self) -> float:
        """FLOPs of decoding a number."""
        return self._codec.decode_flops

    def layout(self, shapes: Shapes) -> Layout:
        """The tensors that are sent for parameters of these shapes, by part."""
        sizes: dict[str, int] = {}
        types: dict[str, torch.dtype] = {}
        for name, shape in shapes.items():
            for part, sent in self._codec.layout(_as_tokens(name, shape), torch.float32).items():
                sizes[part] = sizes.get(part, 0) + math.prod(sent.shape)
                types[part] = sent.dtype
        return {part: Part((size,), types[part]) for part, size in sizes.items()}

    def payload_bytes(self, shapes: Shapes) -> int:
        """Their bytes: the closed form."""
        return sum(part.bytes for part in self.layout(shapes).values())

    def blank(self, shapes: Shapes) -> dict[str, Tensor]:
        """Tensors of these sizes, on the meta device."""
        return {n: torch.empty(p.shape, dtype=p.dtype, device="meta") for n, p in self.layout(shapes).items()}

    def encode(self, tensors: Tensors, generator: torch.Generator) -> Coded:
        """Encode tensors, all of them finite, in the order of their names."""
        found: dict[str, list[Tensor]] = {}
        for name, tensor in sorted(tensors.items()):
            for part, sent in self._codec.encode(_tokens(name, tensor), generator).items():
                found.setdefault(part, []).append(sent.flatten())
        parts = {part: torch.cat(each) for part, each in found.items()}
        decoded = self.decode(parts, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
        before, after = (torch.cat([each[name].flatten() for name in tensors]) for each in (tensors, decoded))
        return Coded(parts, decoded, Lost.of(before, after, float(before.abs().max())))

    def decode(self, parts: Tensors, shapes: Shapes) -> dict[str, Tensor]:
        """The tensors, of float32."""
        done = dict.fromkeys(parts, 0)
        found: dict[str, Tensor] = {}
        for name, shape in sorted(shapes.items()):
            tokens, own = _as_tokens(name, shape), dict[str, Tensor]()
            for part, sent in self._codec.layout(tokens, torch.float32).items():
                size = math.prod(sent.shape)
                own[part] = parts[part][done[part] : done[part] + size].view(sent.shape)
                done[part] += size
            values = self._codec.decode(own, tokens[-1]).float()[0]
            found[name] = (values.T if _is_transposed(name) else values).reshape(shape).contiguous()
        return found


def adapter_shapes(
    ranks: Mapping[str, int], features: Mapping[str, tuple[int, int]], parts: Collection[str]
) -> dict[str, tuple[int, ...]]:
    """The shapes of the given parts ("A", "B") of adapters, as they are sent."""
    found: dict[str, tuple[int, ...]] = {}
    for path, rank in ranks.items():
        d_in, d_out = features[path]
        both = {"A": (rank, d_in), "B": (d_out, rank)}
        found |= {f"{path}.lora_{part}": shape for part, shape in both.items() if part in parts}
    return found


def _is_transposed(name: str) -> bool:
    return name.endswith("lora_B")


def _as_tokens(name: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape of a tensor as (1, tokens, features)."""
    rows, width = (1, math.prod(shape)) if len(shape) < 2 else (shape[0], math.prod(shape[1:]))
    return (1, width, rows) if _is_transposed(name) else (1, rows, width)


def _tokens(name: str, tensor: Tensor) -> Tensor:
    values = tensor.float()
    return (values.T if _is_transposed(name) else values).reshape(_as_tokens(name, tuple(tensor.shape)))
