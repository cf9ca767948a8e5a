"""Some features of every token, and which they are: ceil(log2 D) bits each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from atlas_cli.config.schema.section import Section
from atlas_cli.wire.codecs._bits import pack, packed_bytes, unpack
from atlas_cli.wire.codecs.contract import VALUES, Layout, Part

Numbers = Literal["own", "bfloat16"]


class KeptOptions(Section):
    """How many features are kept, and in which numbers."""

    share: float = Field(
        0.1, gt=0, le=1, description="The share of a token's features that is kept, rounded down, and at least one."
    )
    numbers: Numbers = Field(
        "own",
        description="In which type the kept numbers are sent: that of the message, or bfloat16.",
        examples=["bfloat16"],
    )


def kept(share: float, width: int) -> int:
    """How many of ``width`` features are kept."""
    return max(1, int(share * width + 1e-9))


def index_bits(width: int) -> int:
    """Bits that tell one feature of ``width``: ceil(log2 D), and at least 1."""
    return max(1, (width - 1).bit_length())


def layout(shape: tuple[int, int, int], dtype: torch.dtype, options: KeptOptions) -> Layout:
    """The kept numbers, and their indices, packed by token."""
    *rows, width = shape
    k = kept(options.share, width)
    number = torch.bfloat16 if options.numbers == "bfloat16" else dtype
    indices = Part((*rows, packed_bytes(k, index_bits(width))), torch.uint8)
    return {VALUES: Part((*rows, k), number), "indices": indices}


def encode(values: Tensor, indices: Tensor, options: KeptOptions) -> dict[str, Tensor]:
    """The numbers at ``indices`` (B, T, k), in ascending order."""
    indices = indices.sort(-1).values
    numbers = values.gather(-1, indices)
    if options.numbers == "bfloat16":
        most = torch.finfo(torch.bfloat16).max
        numbers = numbers.clamp(-most, most).to(torch.bfloat16)
    return {VALUES: numbers, "indices": pack(indices, index_bits(values.shape[-1]))}


def decode(parts: Mapping[str, Tensor], width: int) -> Tensor:
    """The numbers at their indices, and 0 elsewhere."""
    numbers = parts[VALUES]
    indices = unpack(parts["indices"], index_bits(width), numbers.shape[-1]).long()
    return numbers.new_zeros((*numbers.shape[:-1], width)).scatter_(-1, indices, numbers)
