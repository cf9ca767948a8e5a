"""Sent as it is, in the type that it was computed in: the message is the same to the byte as without a codec.

It is what every kind of message has without a key under ``wire``. A client can take it to be left out of what the
others do.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from atlas_cli.wire.codecs.contract import VALUES, BaseCodec, Layout, Part


class Codec(BaseCodec):
    """Sends hidden states as they are."""

    by_token = True

    def layout(self, shape: tuple[int, int, int], dtype: torch.dtype) -> Layout:
        """B T D numbers of their type."""
        return {VALUES: Part(shape, dtype)}

    def encode(self, values: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The values themselves."""
        return {VALUES: values}

    def decode(self, parts: Mapping[str, Tensor], width: int) -> Tensor:
        """The values themselves."""
        return parts[VALUES]
