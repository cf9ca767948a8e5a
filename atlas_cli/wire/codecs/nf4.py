"""4 bits that say one of 16 quantiles of a normal distribution: ceil(D / 2) + 4 ceil(D / 64) bytes a token.

The levels of NormalFloat (QLoRA, 2305.14314), which are dense near 0, times the largest absolute value of a block.
What is sent is the nearest level: the error of a number is at most 0.152 times the largest of its block, and small ones
are met better than with ``int4``. With ``block: null`` all features of a token share a scale: ceil(D / 2) + 4 bytes a
token.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from atlas_cli.wire.codecs._bits import pack, packed_bytes, unpack
from atlas_cli.wire.codecs._blocks import BlockOptions, scale_part, scaled, times_scale
from atlas_cli.wire.codecs.contract import VALUES, BaseCodec, Layout, Part

# fmt: off
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)
# fmt: on
BINS = 256  # of [-1, 1]: each has at most one border between levels


class Codec(BaseCodec):
    """Sends hidden states in 4 bits of NormalFloat, with scales."""

    Options = BlockOptions
    by_token = True
    encode_flops, decode_flops = 400, 80

    def layout(self, shape: tuple[int, int, int], dtype: torch.dtype) -> Layout:
        """Half a byte a number, rounded up by token, and 4 bytes a scale."""
        packed = Part((*shape[:2], packed_bytes(shape[2], 4)), torch.uint8)
        return {VALUES: packed, "scale": scale_part(shape, self.options.block)}

    def encode(self, values: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The number of the nearest level; of two that are as near, of the lower."""
        units, scale = scaled(values, self.options.block, 1)
        first, border = (table.to(units.device) for table in _bins())
        at = (units * (BINS / 2) + BINS / 2).clamp_(0, BINS - 1).to(torch.uint8).flatten().int()
        above = (units.flatten() > border.index_select(0, at)).view(torch.uint8)  # sums of two types are slow
        return {VALUES: pack((first.index_select(0, at) + above).view(units.shape), 4), "scale": scale}

    def decode(self, parts: Mapping[str, Tensor], width: int) -> Tensor:
        """Levels times their scale."""
        numbers = unpack(parts[VALUES], 4, width)
        levels = torch.tensor(LEVELS, device=numbers.device).index_select(0, numbers.int().flatten())
        return times_scale(levels.view(numbers.shape), parts["scale"], self.options.block)


def _bins() -> tuple[Tensor, Tensor]:
    """Of each bin the level at its lower end, and the border inside it from which the next one is nearer.

    A search for each number is a hundred times as slow as two looks into tables.
    """
    levels = torch.tensor(LEVELS)
    borders = (levels[1:] + levels[:-1]) / 2
    edges = torch.linspace(-1, 1, BINS + 1)
    first = torch.bucketize(edges[:-1], borders)
    inside = first < torch.bucketize(edges[1:], borders)
    border = torch.where(inside, borders[first.clamp(max=len(borders) - 1)], torch.inf)
    return first.to(torch.uint8), border
