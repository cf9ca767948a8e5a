"""Copies to a GPU that overlap with its computation, through page-locked memory on a stream of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_copies: ContextVar[torch.cuda.Stream | None] = ContextVar("the stream that copies to the GPU", default=None)


@contextmanager
def copies_overlapped(device: torch.device) -> Iterator[None]:
    """Inside the block ``to_device`` copies while ``device`` computes; without CUDA nothing changes."""
    if device.type != "cuda":
        yield
        return
    token = _copies.set(torch.cuda.Stream(device))
    try:
        yield
    finally:
        _copies.reset(token)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to ``device``, ready for its next computation."""
    copies = _copies.get()
    if copies is None or device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    with torch.cuda.stream(copies):
        moved = tensor.pin_memory().to(device, non_blocking=True)
    computes = torch.cuda.current_stream(device)
    computes.wait_stream(copies)
    moved.record_stream(computes)  # or its memory might be given away while that still reads it
    return moved
