"""A gradient as a few numbers: a seeded Gaussian projection (Johnson and Lindenstrauss, 1984), which keeps angles."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from atlas_cli.seeding import torch_generator


def sketch(gradients: Mapping[str, Tensor], size: int = 64, seed: int = 0) -> Tensor:
    """Project named gradients onto ``size`` seeded directions, (size,) in float32; inner products stay, in expectation.

    A part at a time, so that no matrix is larger than ``size`` times the largest gradient. Drawn on the CPU, so that
    devices agree.
    """
    total = torch.zeros(size)
    for name, gradient in gradients.items():
        flat = gradient.detach().reshape(-1).float().cpu()
        directions = torch.randn(size, len(flat), generator=torch_generator(seed, "sketch", name, size))
        total += directions @ flat / size**0.5
    return total
