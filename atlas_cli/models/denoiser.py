"""A denoiser of features at the client, which knows what it sent and what that stands for.

    f' = f - g * e + U V [e, z]

by token, with f the features that come back, z the activation and e what was sent less z. g (D) takes out what comes of
each feature's noise; V (r x 2 D) and U (D x r) mix features. g and U begin at 0, so that at first features stay as they
are.

Shape suffixes: B batch, T tokens, D hidden size, r rank.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

NAME = "denoiser"


class AtTheCut(NamedTuple):
    """What a client knows of what it sent, without a graph: what was added, and the activation, (B, T, D) each."""

    error: Tensor
    clean: Tensor

    @classmethod
    def of(cls, sent: Tensor, clean: Tensor) -> AtTheCut:
        """Of what was sent and what it stands for."""
        return cls((sent - clean).detach(), clean.detach())


class Denoiser(nn.Module):
    """The denoiser, with float32 parameters.

    Args:
        hidden_size: D.
        rank: r, of the linear map from noise and activation to what they add to features.
    """

    def __init__(self, hidden_size: int, rank: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(hidden_size, dtype=torch.float32))
        self.down = nn.Linear(2 * hidden_size, rank, bias=False, dtype=torch.float32)
        self.up = nn.Linear(rank, hidden_size, bias=False, dtype=torch.float32)
        nn.init.zeros_(self.up.weight)

    def forward(self, features_BTD: Tensor, cut: AtTheCut) -> Tensor:
        """What the features (B, T, D) are without the noise, in their dtype."""
        with torch.autocast(features_BTD.device.type, enabled=False):
            error, clean = cut.error.float(), cut.clean.float()
            known = self.up(self.down(torch.cat([error, clean], dim=-1)))
            found = features_BTD.float() - self.gain * error + known
        return found.to(features_BTD.dtype)


def denoises(head: nn.Module) -> bool:
    """Whether a denoiser is a part of a head."""
    return isinstance(getattr(head, NAME, None), Denoiser)


def denoised(head: nn.Module, features_BTD: Tensor, cut: AtTheCut | None) -> Tensor:
    """What a head reads: the features, by the denoiser that is a part of the head where there is one."""
    if cut is None or not denoises(head):
        return features_BTD
    found: Tensor = getattr(head, NAME)(features_BTD, cut)
    return found
