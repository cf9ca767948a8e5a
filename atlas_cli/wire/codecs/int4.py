"""Whole numbers of 4 bits in proportion to the largest of their block: ceil(D / 2) + 4 ceil(D / 64) bytes a token.

A block of features is sent as round(h / s), from -7 to 7, with s = max |h| / 7 (float32); two numbers share a byte. The
error of a number is at most s / 2, which is max |h| / 14. With ``block: null`` all features of a token share a scale:
ceil(D / 2) + 4 bytes a token.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from atlas_cli.wire.codecs._bits import packed_bytes, unpack
from atlas_cli.wire.codecs._blocks import BlockOptions, scale_part, scaled, times_scale
from atlas_cli.wire.codecs.contract import VALUES, BaseCodec, Layout, Part

LEVELS = 7
ROUNDING = 1.5 * 2**23 + LEVELS + 1


class Codec(BaseCodec):
    """Sends hidden states in 4 bits, with scales."""

    Options = BlockOptions
    by_token = True
    encode_flops, decode_flops = 110, 40

    def layout(self, shape: tuple[int, int, int], dtype: torch.dtype) -> Layout:
        """Half a byte a number, rounded up by token, and 4 bytes a scale."""
        packed = Part((*shape[:2], packed_bytes(shape[2], 4)), torch.uint8)
        return {VALUES: packed, "scale": scale_part(shape, self.options.block)}

    def encode(self, values: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Rounded to the nearest level, which is sent from 1 on."""
        units, scale = scaled(values, self.options.block, LEVELS)
        return {VALUES: _rounded_and_packed(units), "scale": scale}

    def decode(self, parts: Mapping[str, Tensor], width: int) -> Tensor:
        """Levels times their scale."""
        levels = unpack(parts[VALUES], 4, width).to(torch.int8) - (LEVELS + 1)
        return times_scale(levels, parts["scale"], self.options.block)


def _rounded_and_packed(units: Tensor) -> Tensor:
    """As ``pack(units.round() + LEVELS + 1, 4)``, to the bit, in two thirds of the time; ``units`` are written to.

    The last bit of a float32 between 2^23 and 2^24 is worth 1. A sum with ``ROUNDING`` so is rounded to the nearest
    whole number, of two to the even one, which is in the lowest bits of the float. What 16 times the upper half of a
    row moves beyond the lowest byte is left out at the end.
    """
    whole, half = units.add_(ROUNDING).view(torch.int32), packed_bytes(units.shape[-1], 4)
    low, high = whole[..., :half], whole[..., half:]
    low[..., : high.shape[-1]].add_(high, alpha=16)
    return low.to(torch.uint8)
