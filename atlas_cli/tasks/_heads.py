"""What trainable heads are made of: the linear layer, and the pooling of heads that read a sequence as a whole."""

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


class PooledHead(nn.Module):
    """Pooled hidden states to logits, in float32.

    Args:
        hidden_size: D.
        outputs: logits a sequence.
        pooling: "mean", "first" or "last".
    """

    def __init__(self, hidden_size: int, outputs: int, pooling: str) -> None:
        super().__init__()
        self.pool = SequencePooling(pooling)
        self.classifier = Classifier(hidden_size, outputs)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Logits (B, outputs)."""
        # cast before pooling: a bfloat16 sum over tokens is inexact from 256 tokens on
        return self.classifier(self.pool(hidden_BTD.to(self.classifier.weight.dtype), mask_BT))


def pooled_token(pooling: str, mask_BT: Tensor) -> Tensor | None:
    """The one token of each sequence that pooling reads, (B, T) bool; None where it reads all."""
    if pooling == "mean":
        return None
    return F.one_hot(_end(pooling, mask_BT), mask_BT.shape[1]).bool()


def _end(pooling: str, mask_BT: Tensor) -> Tensor:
    """The place of the "first" or "last" real token of each sequence, (B,), on whichever side it is padded."""
    real_BT = mask_BT.long()
    return real_BT.argmax(1) if pooling == "first" else mask_BT.shape[1] - 1 - real_BT.flip(1).argmax(1)


class SequencePooling(nn.Module):
    """(B, T, D) and mask (B, T) to (B, D): mean over real tokens, the first or the last of them."""

    def __init__(self, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """One vector a sequence (B, D)."""
        if self.pooling != "mean":
            read_B = _end(self.pooling, mask_BT.to(hidden_BTD.device))
            return hidden_BTD[torch.arange(len(hidden_BTD), device=hidden_BTD.device), read_B]
        weights_BT1 = mask_BT.to(hidden_BTD.dtype).unsqueeze(-1)
        return (hidden_BTD * weights_BT1).sum(1) / weights_BT1.sum(1)
