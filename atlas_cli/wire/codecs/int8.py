"""Whole numbers of 8 bits in proportion to the largest of their token: D + 4 bytes a token.

A token is sent as round(h / s), with s = max |h| / 127 (float32). The error of a number is at most s / 2, which is
max |h| / 254. With ``block`` so many features share a scale: D + 4 ceil(D / block) bytes a token.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from atlas_cli.wire.codecs._blocks import TokenOptions, scale_part, scaled, times_scale
from atlas_cli.wire.codecs.contract import VALUES, BaseCodec, Layout, Part

LEVELS = 127


class Codec(BaseCodec):
    """Sends hidden states as int8, with scales."""

    Options = TokenOptions
    by_token = True
    encode_flops, decode_flops = 35, 15

    def layout(self, shape: tuple[int, int, int], dtype: torch.dtype) -> Layout:
        """A byte a number, and 4 a scale."""
        return {VALUES: Part(shape, torch.int8), "scale": scale_part(shape, self.options.block)}

    def encode(self, values: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Rounded to the nearest level."""
        units, scale = scaled(values, self.options.block, LEVELS)
        return {VALUES: units.round_().to(torch.int8), "scale": scale}

    def decode(self, parts: Mapping[str, Tensor], width: int) -> Tensor:
        """Levels times their scale."""
        return times_scale(parts[VALUES], parts["scale"], self.options.block)
