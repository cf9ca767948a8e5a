"""Each piece of a token is sent as the number of the nearest of L pieces, which are found for every message (FedLite,
2201.11865): 4 L ceil(D / q) bytes a message and ceil(q ceil(log2 L) / 8) bytes a token.

The D features of a token are cut into q pieces. The L pieces are those of k-means over all of a message, begun with
pieces that are drawn from it. What is decoded of one text so depends on the others of its batch, and
``privacy.examples`` refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from atlas_cli.config.schema.section import Section
from atlas_cli.wire.codecs._bits import pack, packed_bytes, unpack
from atlas_cli.wire.codecs._blocks import LEAST
from atlas_cli.wire.codecs.contract import VALUES, BaseCodec, Layout, Part

DISTANCES = 2**19  # between points and vectors that are there at once


class Options(Section):
    """How many pieces a token has, and how many there are to choose from."""

    pieces: int = Field(96, ge=1, description="q, the pieces of a token; at most its features are used.", examples=[48])
    levels: int = Field(16, ge=2, le=65536, description="L, the pieces to choose from.", examples=[256])
    iterations: int = Field(4, ge=0, le=100, description="Steps of k-means.")


class Codec(BaseCodec):
    """Sends the number of the nearest of a few vectors for each piece of a token."""

    Options = Options
    couples_examples = True
    encode_flops, decode_flops = 4000, 120

    def flops(self, width: int) -> tuple[float, float]:
        """By the pieces of a number and by L: each step of k-means, and the search after the last, looks at L vectors
        for every piece (measured from 16 to 1,024)."""
        passes, (_, size) = self.options.iterations + 1, self._pieces(width)
        return passes * (3520 + 180 * self.options.levels) / size, self.decode_flops

    def layout(self, shape: tuple[int, int, int], dtype: torch.dtype) -> Layout:
        """The numbers, packed by token, and the vectors."""
        pieces, size = self._pieces(shape[2])
        packed = Part((*shape[:2], packed_bytes(pieces, self._bits)), torch.uint8)
        return {VALUES: packed, "vectors": Part((self.options.levels, size), torch.float32)}

    def encode(self, values: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """K-means on what is divided by the largest number of the message."""
        batch, tokens, width = values.shape
        pieces, size = self._pieces(width)
        floats = pad(values.float(), (0, pieces * size - width)).reshape(-1, size)
        largest = floats.abs().amax().clamp(min=LEAST) if floats.numel() else floats.new_ones(())
        points, levels = floats / largest, self.options.levels
        if not len(points):
            vectors, nearest = points.new_zeros(levels, size), points.new_zeros(0, dtype=torch.long)
        else:
            first = torch.randperm(len(points), generator=generator)[torch.arange(levels) % len(points)]
            vectors = points[first.to(points.device)]
            for _ in range(self.options.iterations):
                vectors = _means(points, _nearest(points, vectors), vectors)
            nearest = _nearest(points, vectors)
        return {VALUES: pack(nearest.view(batch, tokens, pieces), self._bits), "vectors": vectors * largest}

    def decode(self, parts: Mapping[str, Tensor], width: int) -> Tensor:
        """The vectors of the numbers."""
        pieces, _ = self._pieces(width)
        numbers = unpack(parts[VALUES], self._bits, pieces).long()
        return parts["vectors"][numbers].flatten(-2)[..., :width]

    @property
    def _bits(self) -> int:
        return (self.options.levels - 1).bit_length()

    def _pieces(self, width: int) -> tuple[int, int]:
        """How many pieces a token has, and the features of each; the last may have zeros at its end."""
        size = -(-width // min(self.options.pieces, width))
        return -(-width // size), size


def _nearest(points: Tensor, vectors: Tensor) -> Tensor:
    """The number of the nearest vector of each point: |v|^2 / 2 - p v is least there.

    So many points at a time that their distances stay in a processor's cache: of all of them, and 256 vectors, they
    would be 32 times the message.
    """
    half, some = vectors.square().sum(1) / 2, points.split(max(1, DISTANCES // len(vectors)))
    return torch.cat([torch.addmm(half, each, vectors.T, alpha=-1).min(1).indices for each in some])


def _means(points: Tensor, nearest: Tensor, vectors: Tensor) -> Tensor:
    """The mean of the points of each vector; one that has none stays where it is."""
    sums = torch.zeros_like(vectors).index_add_(0, nearest, points)
    counts = torch.bincount(nearest, minlength=len(vectors)).unsqueeze(1)
    return torch.where(counts > 0, sums / counts.clamp(min=1), vectors)
