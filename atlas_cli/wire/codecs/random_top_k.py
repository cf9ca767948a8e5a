"""Of each token k features: most are of the k largest, some are drawn from the others (Rand-TopK, 2305.18469).

Each of the k places is left to its feature with probability 1 - ``alpha``, else to one of those that are not among the
k largest, drawn without repetition: features that are small for long are still trained. Bytes are those of ``top-k``;
with ``alpha: 0`` what is sent is, too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from atlas_cli.wire.codecs import _kept
from atlas_cli.wire.codecs.contract import BaseCodec, Layout


class Options(_kept.KeptOptions):
    """How many features are kept, in which numbers, and how many are drawn."""

    alpha: float = Field(
        0.1, ge=0, le=1, description="How likely a place goes to a feature that is not among the largest."
    )


class Codec(BaseCodec):
    """Sends the largest features of each token, but for some."""

    Options = Options
    encode_flops, decode_flops = 2700, 260

    def layout(self, shape: tuple[int, int, int], dtype: torch.dtype) -> Layout:
        """k numbers a token, and ceil(log2 D) bits for each."""
        return _kept.layout(shape, dtype, self.options)

    def encode(self, values: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The k features of the highest score: 2 of a large one that stays, -1 of one that goes, else what is drawn."""
        k = _kept.kept(self.options.share, values.shape[-1])
        drawn = torch.rand(values.shape, generator=generator).to(values.device)
        largest = values.abs().topk(k, sorted=False).indices
        stays = drawn.gather(-1, largest) >= self.options.alpha
        scores = drawn.scatter(-1, largest, torch.where(stays, 2.0, -1.0))
        return _kept.encode(values, scores.topk(k, sorted=False).indices, self.options)

    def decode(self, parts: Mapping[str, Tensor], width: int) -> Tensor:
        """The numbers at their places."""
        return _kept.decode(parts, width)
