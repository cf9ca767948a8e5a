"""Which tokens of its own sequence a token attends to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def is_causal(module: nn.Module) -> bool:
    """Whether a token sees none of those after it."""
    return bool(getattr(module, "is_causal", True))


def seen(causal: bool, places: Sequence[int], length: int, window: int | None, device: torch.device) -> Tensor:
    """Which of ``length`` tokens those at ``places`` see, (1, 1, Q, T): themselves and (``window`` - 1 of) those
    before, and of an encoder as many after."""
    before = torch.tensor(places).to(device)[:, None] - torch.arange(length, device=device)
    far = before if causal else before.abs()
    sees = before >= 0 if causal else torch.ones_like(before, dtype=torch.bool)
    return (sees if window is None else sees & (far < window))[None, None]
