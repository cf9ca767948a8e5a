"""Converts tensors to arrays, which processes share without copying, and back.

What comes from another process may lie in memory that it shares: such arrays cannot be written to, so that what is
computed with is a copy; frozen weights are used where they lie.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Array(NamedTuple):
    """A tensor's numbers; NumPy has no bfloat16, so ``dtype`` says what the bits are."""

    values: np.ndarray
    dtype: str


Packed = dict[str, Array]


def pack(tensors: Mapping[str, Tensor]) -> Packed:
    """Named tensors as arrays."""
    return {name: to_array(tensor) for name, tensor in tensors.items()}


def unpack(packed: Mapping[str, Array], device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Named tensors, copies of the arrays."""
    return {name: _view(array).clone().to(device) for name, array in packed.items()}


def to_array(tensor: Tensor) -> Array:
    """One tensor; on the CPU the array is a view of it."""
    plain = tensor.detach().cpu().contiguous()
    bits = plain.view(torch.int16) if plain.dtype == torch.bfloat16 else plain
    return Array(bits.numpy(), str(tensor.dtype).removeprefix("torch."))


def frozen_tensors(arrays: Sequence[Array], device: torch.device) -> list[Tensor]:
    """Read-only tensors; on the CPU they share the memory of the arrays."""
    return [_view(array).to(device) for array in arrays]


def size_of(packed: Mapping[str, Array]) -> int:
    """Bytes of all arrays."""
    return sum(array.values.nbytes for array in packed.values())


def _view(array: Array) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        plain = torch.from_numpy(array.values)
    dtype = getattr(torch, array.dtype)
    return plain.view(dtype) if dtype == torch.bfloat16 else plain
