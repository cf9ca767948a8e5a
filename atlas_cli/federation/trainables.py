"""What the server trains for one task group: the head and, if asked for, LoRA on the server half."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atlas_cli.config.schema import OptimizerConfig
from atlas_cli.federation.memory import tensor_bytes
from atlas_cli.federation.numerics import clip_and_step
from atlas_cli.federation.optimizers import build_optimizer, set_learning_rate
from atlas_cli.models.lora import AdapterSet


class Trainables:
    """A head, adapters and their optimizer, with gradients gathered over the clients of a step.

    Args:
        name: the task group.
        head: None when the head stays on the clients.
        adapters: LoRA on the server half; may be empty.
        optimizer: how they are trained.
        max_grad_norm: clip the gathered gradient to this norm.
    """

    def __init__(
        self,
        name: str,
        head: nn.Module | None,
        adapters: AdapterSet,
        optimizer: OptimizerConfig,
        max_grad_norm: float | None,
    ) -> None:
        self.name = name
        self.head = head
        self.adapters = adapters
        self.config = optimizer
        self.max_grad_norm = max_grad_norm
        self.optimizer = build_optimizer(self.parameters(), optimizer)
        self._sums: list[Tensor] = []
        self._count = 0

    def parameters(self) -> list[nn.Parameter]:
        """Everything that is trained here (a frozen language-model head is not)."""
        head = [p for p in self.head.parameters() if p.requires_grad] if self.head is not None else []
        return [*head, *self.adapters.parameters()]

    def gather(self, gradients: Sequence[Tensor], count: int) -> None:
        """Add the gradient of one client's mean loss, weighted by how many labels that loss was a mean over."""
        weighted = [count * g for g in gradients]
        self._sums = [a + b for a, b in zip(self._sums, weighted, strict=True)] if self._sums else weighted
        self._count += count

    def step(self, learning_rate: float) -> None:
        """One optimizer step with the gathered gradient, normalised by the total count: that of the pooled batch."""
        if self.optimizer is None or self._count == 0:
            self._sums, self._count = [], 0
            return
        for parameter, gradient in zip(self.parameters(), self.mean_gradients(), strict=True):
            parameter.grad = gradient
        self._sums, self._count = [], 0
        set_learning_rate(self.optimizer, learning_rate)
        clip_and_step(self.optimizer, self.parameters(), self.max_grad_norm, f"on the server, task group {self.name}")

    def mean_gradients(self) -> list[Tensor]:
        """The gradient of the mean loss over all gathered labels."""
        return [total / self._count for total in self._sums]

    def gradient_bytes(self) -> int:
        """Bytes of the gathered gradients as they are now."""
        return tensor_bytes(self._sums)

    def copy(self) -> Trainables:
        """The same values with an optimizer of their own, for SplitFed V1."""
        adapters = AdapterSet(copy.deepcopy(self.adapters.adapters))
        return Trainables(self.name, copy.deepcopy(self.head), adapters, self.config, self.max_grad_norm)

    @torch.no_grad()
    def take_mean(self, copies: Sequence[Trainables], weights: Sequence[float]) -> None:
        """Become the weighted mean of copies, in their order."""
        total = sum(weights)
        for i, parameter in enumerate(self.parameters()):
            parameter.zero_()
            for other, weight in zip(copies, weights, strict=True):
                parameter.add_(other.parameters()[i], alpha=weight / total)
