"""Of each token the k features of the largest magnitude; the others are 0 for the receiver.

4 k + ceil(k ceil(log2 D) / 8) bytes a token for float32 numbers (2 k with ``numbers: bfloat16``), with k = share x D,
rounded down. The error of a token is at most sqrt(1 - k / D) of its norm. With ``share: 1`` nothing is lost.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from atlas_cli.wire.codecs import _kept
from atlas_cli.wire.codecs.contract import BaseCodec, Layout


class Codec(BaseCodec):
    """Sends the largest features of each token."""

    Options = _kept.KeptOptions
    by_token = True
    encode_flops, decode_flops = 1400, 240

    def layout(self, shape: tuple[int, int, int], dtype: torch.dtype) -> Layout:
        """k numbers a token, and ceil(log2 D) bits for each."""
        return _kept.layout(shape, dtype, self.options)

    def encode(self, values: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The k largest."""
        k = _kept.kept(self.options.share, values.shape[-1])
        return _kept.encode(values, values.abs().topk(k, sorted=False).indices, self.options)

    def decode(self, parts: Mapping[str, Tensor], width: int) -> Tensor:
        """The numbers at their places."""
        return _kept.decode(parts, width)
