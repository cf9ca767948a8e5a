"""Finds NaN and infinities in weights when a file is read."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first floating-point tensor with NaN or an infinity; None if all are finite."""
    return next((name for name, tensor in tensors.items() if not _is_finite(tensor)), None)


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
        return True
    values = tensor.detach()
    values = values.float() if values.element_size() == 1 else values  # few operations take 8-bit floats
    # the extremes make no copy of the size of the weights, and hand a NaN on
    return bool(torch.isfinite(torch.stack(torch.aminmax(values))).all())
