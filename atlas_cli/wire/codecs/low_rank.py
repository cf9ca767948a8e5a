"""Each text's matrix (T, D) as a product of two thin ones, in 4 or 8 bits: R (T + D) q / 8 bytes a text, and scales.

The nearest product of rank R (after SplitLite, 2608.23018): what the matrix is in the span of its R largest singular
vectors. The left factor (T, R) has the singular values. A number of a factor is a whole number times the scale of its
component, rounded up or down at random so that its mean is the number itself. Two scales of 4 bytes a component come on
top: 8 R bytes a text. For a text of fewer tokens than R, R is that.

Of one adapted linear layer of rank r, the change of its output between two rounds has rank 2 r at most; through further
layers that is an approximation. Rank R takes fewer bytes than all numbers where R (T + D) is well below T D.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from atlas_cli.config.schema.section import Section
from atlas_cli.wire.codecs._bits import pack, packed_bytes, unpack
from atlas_cli.wire.codecs._blocks import LEAST
from atlas_cli.wire.codecs.contract import VALUES, BaseCodec, Layout, Part


class Options(Section):
    """The rank, and the bits of a number."""

    rank: int = Field(16, ge=1, description="R, the rank of what is sent.", examples=[32])
    bits: Literal[4, 8] = Field(4, description="The bits of each number of the factors.", examples=[8])


class Codec(BaseCodec):
    """Sends a product of two thin matrices for each text."""

    Options = Options
    encode_flops, decode_flops = 1200, 60

    def layout(self, shape: tuple[int, int, int], dtype: torch.dtype) -> Layout:
        """The factors, packed by row, and their scales by component."""
        batch, tokens, width = shape
        rank, bits = self._rank(shape), self.options.bits
        return {
            VALUES: Part((batch, tokens, packed_bytes(rank, bits)), torch.uint8),
            "right": Part((batch, rank, packed_bytes(width, bits)), torch.uint8),
            "scales": Part((batch, 2, rank), torch.float32),
        }

    def encode(self, values: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The projection on the largest singular vectors, from the smaller of the two Gram matrices."""
        batch, tokens, width = values.shape
        floats = values.float()
        size = floats.abs().amax((1, 2), keepdim=True).clamp(min=LEAST) if floats.numel() else floats[:, :1, :1]
        units, rank = floats / size, self._rank((batch, tokens, width))
        if tokens <= width:
            vectors = _largest(units @ units.mT, rank)
            right = vectors.mT @ units
            norms = right.norm(dim=2, keepdim=True).clamp(min=LEAST)
            left, right = vectors * norms.mT, right / norms
        else:
            vectors = _largest(units.mT @ units, rank)
            left, right = units @ vectors, vectors.mT
        left, right = left.mT * size, right  # (B, R, T) and (B, R, D): a row is a component
        (left, below), (right, above) = (_rounded(each, self.options.bits, generator) for each in (left, right))
        return {
            VALUES: pack(left.mT.contiguous(), self.options.bits),
            "right": pack(right, self.options.bits),
            "scales": torch.stack([below, above], 1),
        }

    def decode(self, parts: Mapping[str, Tensor], width: int) -> Tensor:
        """The product."""
        bits, scales = self.options.bits, parts["scales"]
        rank, middle = scales.shape[2], 1 << (bits - 1)
        left = unpack(parts[VALUES], bits, rank).float() - middle
        right = unpack(parts["right"], bits, width).float() - middle
        return (left * scales[:, :1]) @ (right * scales[:, 1].unsqueeze(-1))

    def _rank(self, shape: tuple[int, int, int]) -> int:
        return min(self.options.rank, shape[1], shape[2])


def _largest(gram: Tensor, rank: int) -> Tensor:
    """The eigenvectors (B, N, R) of the largest eigenvalues."""
    if not gram.numel():
        return gram[..., :rank]
    return torch.linalg.eigh(gram).eigenvectors[..., gram.shape[-1] - rank :]


def _rounded(factor: Tensor, bits: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A factor (B, R, N) as bytes in units of each row's scale (B, R), rounded at random without bias."""
    middle = 1 << (bits - 1)
    largest = factor.abs().amax(-1) if factor.numel() else factor.new_zeros(factor.shape[:-1])
    scale = (largest / (middle - 1)).clamp(min=LEAST)
    drawn = torch.rand(factor.shape, generator=generator).to(factor.device)
    units = (factor / scale.unsqueeze(-1) + drawn).floor_().clamp_(1 - middle, middle - 1)
    return (units + middle).to(torch.uint8), scale
