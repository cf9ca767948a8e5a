"""How parameters cross the wire: named tensors in the parts of a codec, all of a message in one tensor a part.

What a codec takes for a token is a component of an adapter (a row of A, a column of B), a row of another matrix, or a
vector. Both ends know names and shapes, so that neither is sent.

With ``changed_rows`` a message that is smaller so has only the tokens that are not zero, which are those that changed,
and a bit for each token that says whether it is there.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor

from atlas_cli.config.schema.wire import WireConfig
from atlas_cli.wire.codecs import codec_of
from atlas_cli.wire.codecs._bits import pack, packed_bytes, unpack
from atlas_cli.wire.codecs.contract import BaseCodec, Layout, Part
from atlas_cli.wire.lost import Lost

Shapes = Mapping[str, tuple[int, ...]]
Tensors = Mapping[str, Tensor]

# sent beside the parts where the other end does not know them
RANKS = "ranks"  # of adapters
COUNTS = "rows"  # of each layer and merge, that were added to the base
CHANGED = "changed"  # a bit for each token, whether it is sent


class Coded(NamedTuple):
    """Tensors as a codec sends them: its parts, what the other end decodes, and what was lost.

    Attributes:
        changed: where only changed tokens are sent, how many of each tensor.
    """

    parts: dict[str, Tensor]
    decoded: dict[str, Tensor]
    lost: Lost
    changed: Mapping[str, int] | None = None


class ParameterCodec:
    """Encodes and decodes the parameters of one kind of message.

    Args:
        codec: one that encodes each token by itself (``BaseCodec.by_token``).
        changed_rows: whether tokens that did not change are left out where that is smaller.
    """

    def __init__(self, codec: BaseCodec, changed_rows: bool = False) -> None:
        self._codec, self._changed_rows = codec, changed_rows

    @classmethod
    def of(cls, wire: WireConfig, name: str) -> Self | None:
        """That of ``adapters`` or ``deliveries`` in a config; None where they are sent as they are.

        Raises:
            ConfigError: as ``wire.codecs.codec_of``.
        """
        asked = wire.of_parameters().get(name)
        return None if asked is None else cls(codec_of(asked, f"wire.{name}"), asked.changed_rows)

    @property
    def encode_flops(self) -> float:
        """FLOPs of encoding a number; ``decode_flops`` of decoding one."""
        return self._codec.encode_flops

    @property
    def decode_flops(self) -> float:
        """FLOPs of decoding a number."""
        return self._codec.decode_flops

    def of_all_rows(self) -> ParameterCodec:
        """The same, which leaves no tokens out."""
        return ParameterCodec(self._codec)

    def layout(self, shapes: Shapes, changed: Mapping[str, int] | None = None) -> Layout:
        """The tensors that are sent for parameters of these shapes, by part.

        Args:
            changed: how many tokens of each are sent; None: all, at most.
        """
        sizes: dict[str, int] = {}
        types: dict[str, torch.dtype] = {}
        if changed is not None:
            tokens = sum(_as_tokens(name, shape)[1] for name, shape in shapes.items())
            sizes[CHANGED], types[CHANGED] = packed_bytes(tokens, 1), torch.uint8
        for name, shape in shapes.items():
            for part, sent in self._parts(name, shape, changed).items():
                sizes[part] = sizes.get(part, 0) + math.prod(sent.shape)
                types[part] = sent.dtype
        return {part: Part((size,), types[part]) for part, size in sizes.items()}

    def payload_bytes(self, shapes: Shapes, changed: Mapping[str, int] | None = None) -> int:
        """Their bytes: the closed form."""
        return sum(part.bytes for part in self.layout(shapes, changed).values())

    def blank(self, shapes: Shapes) -> dict[str, Tensor]:
        """Tensors of these sizes, on the meta device."""
        return {n: torch.empty(p.shape, dtype=p.dtype, device="meta") for n, p in self.layout(shapes).items()}

    def encode(self, tensors: Tensors, generator: torch.Generator) -> Coded:
        """Encode tensors, all of them finite, in the order of their names."""
        tokens = {name: _tokens(name, tensor) for name, tensor in sorted(tensors.items())}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        there = {name: values[0].any(1) for name, values in tokens.items()} if self._changed_rows else {}
        changed = {name: int(own.sum()) for name, own in there.items()} if there else None
        found: dict[str, list[Tensor]] = {}
        if changed is not None and self.payload_bytes(shapes, changed) < self.payload_bytes(shapes):
            found[CHANGED] = [pack(torch.cat([*there.values()])[:, None].T.to(torch.uint8), 1)[0]]
            tokens = {name: values[:, there[name]] for name, values in tokens.items() if changed[name]}
        else:
            changed = None
        for values in tokens.values():
            for part, sent in self._codec.encode(values, generator).items():
                found.setdefault(part, []).append(sent.flatten())
        parts = {part: torch.cat(each) for part, each in found.items()}
        decoded = self.decode(parts, shapes)
        before, after = (torch.cat([each[name].flatten() for name in tensors]) for each in (tensors, decoded))
        return Coded(parts, decoded, Lost.of(before, after, float(before.abs().max())), changed)

    def decode(self, parts: Tensors, shapes: Shapes) -> dict[str, Tensor]:
        """The tensors, of float32."""
        there: dict[str, Tensor] = {}
        if CHANGED in parts:
            sizes = [_as_tokens(name, shape)[1] for name, shape in sorted(shapes.items())]
            bits = unpack(parts[CHANGED][None], 1, sum(sizes))[0].bool().split(sizes)
            there = dict(zip(sorted(shapes), bits, strict=True))
        changed = {name: int(own.sum()) for name, own in there.items()} if there else None
        done = dict.fromkeys(parts, 0)
        found: dict[str, Tensor] = {}
        for name, shape in sorted(shapes.items()):
            _, count, width = _as_tokens(name, shape)
            own = dict[str, Tensor]()
            for part, sent in self._parts(name, shape, changed).items():
                size = math.prod(sent.shape)
                own[part] = parts[part][done[part] : done[part] + size].view(sent.shape)
                done[part] += size
            values = torch.zeros(count, width, device=next(iter(parts.values())).device)
            if own:
                values[there.get(name, slice(None))] = self._codec.decode(own, width).float()[0]
            found[name] = (values.T if _is_transposed(name) else values).reshape(shape).contiguous()
        return found

    def _parts(self, name: str, shape: tuple[int, ...], changed: Mapping[str, int] | None) -> Layout:
        """The parts of one tensor, of all of its tokens or of those that changed; none where none did."""
        _, count, width = _as_tokens(name, shape)
        count = count if changed is None else changed[name]
        return self._codec.layout((1, count, width), torch.float32) if count else {}


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
