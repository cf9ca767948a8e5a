"""Whole numbers of a few bits each, packed into bytes row by row."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of a row of ``count`` numbers: ceil(count bits / 8)."""
    return -(-count * bits // 8)


def pack(numbers: Tensor, bits: int) -> Tensor:
    """Pack numbers (..., N) from 0 to 2^bits - 1 into bytes (..., ceil(N bits / 8)).

    Two of 4 bits share a byte as halves of the row, which stay contiguous; others are written bit by bit.
    """
    if bits == 8:
        return numbers.to(torch.uint8)
    if bits == 4:
        small = numbers.to(torch.uint8)
        half = packed_bytes(small.shape[-1], 4)
        high = pad(small[..., half:], (0, 2 * half - small.shape[-1]))
        return small[..., :half] | (high << 4)
    places = torch.arange(bits, device=numbers.device)
    row = ((numbers.long().unsqueeze(-1) >> places) & 1).to(torch.uint8).flatten(-2)
    row = pad(row, (0, -row.shape[-1] % 8)).unflatten(-1, (-1, 8))
    return (row << torch.arange(8, dtype=torch.uint8, device=row.device)).sum(-1, dtype=torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The ``count`` numbers (..., N) of every row: bytes for up to 8 bits, else int64."""
    if bits == 8:
        return packed
    if bits == 4:
        return torch.cat([packed & 15, packed >> 4], -1)[..., :count]
    row = (packed.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=packed.device)) & 1
    numbers = row.flatten(-2)[..., : count * bits].unflatten(-1, (count, bits)).long()
    found = (numbers << torch.arange(bits, device=packed.device)).sum(-1)
    return found.to(torch.uint8) if bits < 8 else found
