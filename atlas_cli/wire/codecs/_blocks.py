"""Numbers in proportion to the largest of their block: of a token, or of so many features of one."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from atlas_cli.config.schema.section import Section
from atlas_cli.wire.codecs.contract import Part

LEAST = 1e-30  # the smallest scale: what is far below is sent as 0, and a quotient by it never overflows


class BlockOptions(Section):
    """Which numbers share a scale."""

    block: int | None = Field(
        64,
        ge=2,
        description="So many features of a token share a scale, the last block of a token may be smaller; null: all of "
        "a token do.",
        examples=[32],
        json_schema_extra={"unit": "features"},
    )


class TokenOptions(BlockOptions):
    """Which numbers share a scale."""

    block: int | None = Field(
        None,
        ge=2,
        description="So many features of a token share a scale, the last block of a token may be smaller; null: all of "
        "a token do.",
        examples=[64],
        json_schema_extra={"unit": "features"},
    )


def scale_part(shape: tuple[int, ...], block: int | None) -> Part:
    """The scales of (..., D): one a row, or ceil(D / block) of them."""
    *rows, width = shape
    return Part((*rows,) if block is None else (*rows, -(-width // block)), torch.float32)


def scaled(values: Tensor, block: int | None, levels: int) -> tuple[Tensor, Tensor]:
    """Numbers (..., D) in units of their scale, within +-levels, as a new float32 tensor, and the scales.

    The scale of a block is its largest absolute value / levels, and at least ``LEAST``.
    """
    floats = values.float()
    blocks = floats.unsqueeze(-2) if block is None else _in_blocks(floats, block)
    if blocks.numel():
        largest = torch.maximum(blocks.amax(-1), -blocks.amin(-1))
    else:
        largest = blocks.new_zeros(blocks.shape[:-1])
    scale = (largest / levels).clamp_(min=LEAST)
    units = (blocks / scale.unsqueeze(-1)).flatten(-2)[..., : values.shape[-1]]
    return units, scale.squeeze(-1) if block is None else scale


def times_scale(units: Tensor, scale: Tensor, block: int | None) -> Tensor:
    """The inverse of ``scaled``."""
    if block is None:
        return units * scale.unsqueeze(-1)
    return (_in_blocks(units, block) * scale.unsqueeze(-1)).flatten(-2)[..., : units.shape[-1]]


def _in_blocks(values: Tensor, block: int) -> Tensor:
    """(..., D) as (..., blocks, block), with zeros at the end."""
    missing = -values.shape[-1] % block
    return (pad(values, (0, missing)) if missing else values).unflatten(-1, (-1, block))
