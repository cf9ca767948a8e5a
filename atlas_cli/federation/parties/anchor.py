"""FedProx (Li et al., 1812.06127): in its local steps a client is pulled back to where its round began.

    loss + (mu / 2) (sum |A - A_0|^2 + sum |s B - s B_0|^2 + |head - head_0|^2)

with A_0, B_0 and head_0 as the client holds them when its round begins: what it was delivered, at its own rank.
Of B the scale-free s B counts, so that clients of unequal alpha and rank are pulled alike. The gradient of the penalty
is mu (A - A_0) for A, mu s^2 (B - B_0) for B and mu (head - head_0) for the head. It is 0 in the first local step, so
that rounds of one step are those without a penalty. It knows nothing of the data, and comes after the noise of DP-SGD.

Nothing more is sent. A client keeps a copy of what it trains from its first step of a round to its last.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Anchor:
    """Where a client's round began.

    Args:
        mu: the strength of the pull.
        steps: local steps of a round.
    """

    def __init__(self, mu: float, steps: int) -> None:
        self.mu, self._last, self._step = mu, steps - 1, 0
        self._began: list[Tensor] = []

    @torch.no_grad()
    def pull(self, trained: Iterable[tuple[nn.Parameter, float]], step: int) -> None:
        """Add the penalty's gradient to those of a local step, before the optimizer's.

        Args:
            trained: parameters, each with the factor by which it acts: s for B, else 1.
        """
        self._step, parameters = step, list(trained)
        if step == 0:
            self._began = [p.detach().clone() for p, _ in parameters] if self._last > 0 else []
            return
        for (parameter, scale), began in zip(parameters, self._began, strict=True):
            pull = self.mu * scale**2 * (parameter - began)
            parameter.grad = pull if parameter.grad is None else parameter.grad + pull

    @property
    def bytes(self) -> int:
        """Of the copy."""
        return sum(tensor.nbytes for tensor in self._began)

    def end_step(self) -> None:
        """After the optimizer's step: the last of a round drops the copy."""
        if self._step == self._last:
            self._began = []
