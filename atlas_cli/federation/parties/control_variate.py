"""After SCAFFOLD (Karimireddy et al., 1910.06378) at a client, for methods that merge adapters of unequal rank.

The control variate of a client is its gradient at the adapter that it was delivered: that of its first local step of
the round, on that step's batch. The server takes the mean c over the clients that take part, and a step goes by

    g_k(y) - g_k(x) + c

so that the first step of all clients goes by c. The paper's variates are of earlier rounds, those in which a client
took part last (option I: all its data at x; option II: the steps of the round). These are of this round's x, as in
FedLin (Mitra et al., 2102.07053): the joint optimum is a point of rest as there, but c knows nothing of who is absent.
So a merge that turns the components of the adapter (an SVD does) leaves nothing behind that would be of other
components, clients may be absent, and ranks may differ or shrink. Component j of c is the mean over the clients of rank
above j, by their weights, so that corrections sum to 0 by weight. It is of A and of s B, in which clients of unequal
alpha and rank move alike. Heads are not corrected.

A round sends as many elements as adapters have up and down again. From its first step of a round to its last a client
keeps a copy of what it trains of its adapters.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from atlas_cli.aggregation.client_gradients import gradients_of, replace_gradients
from atlas_cli.aggregation.contract import PARTS, Adapters, Factors
from atlas_cli.federation.parties.numerics import require_finite
from atlas_cli.models.adapters.lora import AdapterSet


class ControlVariate:
    """What a client adds to its gradients.

    Args:
        steps: local steps of a round.

    Attributes:
        waits: whether the first step of a round has its gradients, and waits for their mean to be taken.
    """

    def __init__(self, steps: int) -> None:
        self._last, self._step, self.waits = steps - 1, 0, False
        self._kept: dict[str, Tensor] = {}

    @torch.no_grad()
    def correct(self, adapters: AdapterSet, step: int, when: str) -> None:
        """Correct the gradients of a step; those of the first step are kept until their mean is there.

        Raises:
            NonFiniteError: a gradient of the first step.
        """
        self._step = step
        if step > 0:
            self._add(adapters)
            return
        given = _named(gradients_of(adapters))
        trained = adapters.trained_parts
        self._kept = {name: value.clone() for name, value in given.items() if name.rpartition("lora_")[2] in trained}
        for name, gradient in self._kept.items():
            require_finite(gradient, f"gradient of {name} {when}")
        self.waits = True

    def first_gradients(self) -> dict[str, Tensor]:
        """The gradients of the step that waits, as they are sent."""
        return dict(self._kept)

    @torch.no_grad()
    def take(self, adapters: AdapterSet, mean: Mapping[str, Tensor]) -> None:
        """Take their mean in, and correct the step that waits for it."""
        self._kept = {name: mean[name].to(first) - first for name, first in self._kept.items()}
        self.waits = False
        self._add(adapters)

    @property
    def bytes(self) -> int:
        """Of what is kept."""
        return sum(tensor.nbytes for tensor in self._kept.values())

    def end_step(self) -> None:
        """After the optimizer's step: the last of a round drops what is kept."""
        if self._step == self._last:
            self._kept = {}

    def _add(self, adapters: AdapterSet) -> None:
        corrected = {
            path: Factors(*(self._corrected(f"{path}.lora_{part}", g) for part, g in zip(PARTS, factors, strict=True)))
            for path, factors in gradients_of(adapters).items()
        }
        replace_gradients(adapters, corrected)

    def _corrected(self, name: str, gradient: Tensor) -> Tensor:
        return gradient + self._kept[name] if name in self._kept else gradient


def _named(adapters: Adapters) -> dict[str, Tensor]:
    return {f"{p}.lora_{part}": t for p, f in adapters.items() for part, t in zip(PARTS, f, strict=True)}
