"""The linear layer of the trainable heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Classifier(nn.Linear):
    """A linear layer with float32 parameters that computes in their dtype, whatever the backbone or autocast uses.

    Args:
        hidden_size: D.
        outputs: logits a position.
    """

    def __init__(self, hidden_size: int, outputs: int) -> None:
        super().__init__(hidden_size, outputs, dtype=torch.float32)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) of any float dtype to (..., outputs)."""
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.to(self.weight.dtype), self.weight, self.bias)
