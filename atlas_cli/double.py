"""float64, in which sums are taken; for a device that has none, such as MPS, the CPU takes them."""

from __future__ import annotations

import torch
from torch import Tensor

WITHOUT = {"mps"}  # types of devices without float64


def where_double(device: torch.device) -> torch.device:
    """The device itself, or the CPU where that one has no float64."""
    return torch.device("cpu") if device.type in WITHOUT else device


def double(tensor: Tensor) -> Tensor:
    """Convert to float64, on the device that ``where_double`` gives."""
    return tensor.to(where_double(tensor.device)).to(torch.float64)
