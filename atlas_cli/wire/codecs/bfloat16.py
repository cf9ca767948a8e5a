"""Each number is rounded to bfloat16: 2 D bytes a token.

The relative error of a number is at most 2^-8. Plain float16 would lose gradients, most of which are below its smallest
normal number.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from atlas_cli.wire.codecs.contract import VALUES, BaseCodec, Layout, Part


class Codec(BaseCodec):
    """Sends hidden states as bfloat16."""

    by_token = True
    encode_flops, decode_flops = 20, 10

    def layout(self, shape: tuple[int, int, int], dtype: torch.dtype) -> Layout:
        """2 bytes a number."""
        return {VALUES: Part(shape, torch.bfloat16)}

    def encode(self, values: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Rounded to the nearest; of what is beyond the largest finite bfloat16, that."""
        most = torch.finfo(torch.bfloat16).max
        return {VALUES: values.clamp(-most, most).to(torch.bfloat16)}

    def decode(self, parts: Mapping[str, Tensor], width: int) -> Tensor:
        """The bfloat16 numbers."""
        return parts[VALUES]
