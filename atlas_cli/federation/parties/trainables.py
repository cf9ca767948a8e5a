"""What the server trains for one task group: the head and, if asked for, LoRA on the server half."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from atlas_cli.config.schema.experiment import OptimizerConfig
from atlas_cli.double import double
from atlas_cli.errors import ConfigError
from atlas_cli.federation.parties.measured_memory import tensor_bytes
from atlas_cli.federation.parties.numerics import clip_and_step
from atlas_cli.federation.parties.optimizers import (
    build_optimizer,
    drop_state,
    load_moments,
    moments_of,
    set_learning_rate,
)
from atlas_cli.federation.parties.setting import Setting
from atlas_cli.models.adapters.lora import AdapterSet
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.seeding import forked
from atlas_cli.storage.state_dict import StateDict, copies, copy_into, pop_prefix, tensors_and_values
from atlas_cli.tasks.contract import BaseTask


class Trainables:
    """A head, adapters and their optimizer, with gradients gathered over the clients of a step.

    Args:
        name: the task group.
        head: None when the head stays on the clients.
        adapters: LoRA on the server half; may be empty.
        optimizer: how they are trained.
        max_grad_norm: clip the gathered gradient to this norm.

    Attributes:
        trained_on: for each of ``parameters``, how many labels it was trained on.
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
        n = len(self.parameters())
        self._sums: list[Tensor | None] = [None] * n
        self._counts = [0] * n
        self.trained_on = [0] * n

    def parameters(self) -> list[nn.Parameter]:
        """All trained parameters (a frozen language-model head is not among them)."""
        head = [p for p in self.head.parameters() if p.requires_grad] if self.head is not None else []
        return [*head, *self.adapters.trained()]

    @property
    def labels(self) -> int:
        """How many labels it was trained on."""
        return max(self.trained_on, default=0)

    def logits(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The head's output for hidden states (B, T, D) and their mask (B, T).

        Raises:
            ConfigError: the head is on the clients.
        """
        if self.head is None:
            raise ConfigError("labels: client keeps the head on the clients", key="training.labels")
        logits: Tensor = self.head(hidden, mask)
        return logits

    def gather(self, gradients: Sequence[Tensor | None], count: int) -> None:
        """Add the gradient of one client's mean loss, weighted by how many labels that loss was a mean over.

        None: a parameter that does not serve this client, whose own cut is deeper.
        """
        self.gather_sums(GradientSums.of_mean(self, gradients, count).sums, count)

    def gather_sums(self, sums: Sequence[Tensor | None], count: int) -> None:
        """Add gradients of a loss that is a sum over ``count`` labels already."""
        for i, gradient in enumerate(sums):
            if gradient is not None:
                sofar = self._sums[i]
                self._sums[i] = gradient if sofar is None else sofar + gradient
                self._counts[i] += count
                self.trained_on[i] += count

    def step(self, learning_rate: float) -> None:
        """One optimizer step with the gathered gradients: each parameter's are those of the pooled batch it serves."""
        anything = self.optimizer is not None and any(self._counts)
        for parameter, gradient in zip(self.parameters(), self.mean_gradients(), strict=True):
            parameter.grad = gradient if anything else None
        self._sums, self._counts = [None] * len(self._sums), [0] * len(self._counts)
        if self.optimizer is None or not anything:
            return
        set_learning_rate(self.optimizer, learning_rate)
        what = f"on the server, task group {self.name}"
        clip_and_step(self.optimizer, self.parameters(), self.max_grad_norm, what, self.adapters.name_of)

    def mean_gradients(self) -> list[Tensor | None]:
        """The gradient of the mean loss over the labels gathered for each parameter; None where there were none."""
        return [
            total / count if total is not None and count else None
            for total, count in zip(self._sums, self._counts, strict=True)
        ]

    def gradient_bytes(self) -> int:
        """Bytes of the gathered gradients as they are now."""
        return tensor_bytes(self._sums)

    def copy(self) -> Trainables:
        """The same values with an optimizer of their own, for SplitFed V1."""
        adapters = AdapterSet(copy.deepcopy(self.adapters.adapters))
        return Trainables(self.name, copy.deepcopy(self.head), adapters, self.config, self.max_grad_norm)

    @torch.no_grad()
    def take_mean(self, copies: Sequence[Trainables]) -> None:
        """Become the mean of copies, in their order, each weighted by the labels that it was trained on.

        A parameter that was trained on none, because it served no client, stays as it is.
        """
        for i, parameter in enumerate(self.parameters()):
            total = sum(other.trained_on[i] for other in copies)
            if total:
                parameter.zero_()
                for other in copies:
                    parameter.add_(other.parameters()[i], alpha=other.trained_on[i] / total)

    @torch.no_grad()
    def take_changes(self, moved: Sequence[tuple[Trainables, Sequence[Tensor], float]]) -> None:
        """Add the mean of what copies changed, each with the values that it began with and a factor of its change."""
        for i, parameter in enumerate(self.parameters()):
            total, sum_of = sum(copied.trained_on[i] for copied, _, _ in moved), double(parameter)
            for copied, began, factor in moved if total else ():
                change = double(copied.parameters()[i]) - double(began[i])
                sum_of = sum_of + factor * copied.trained_on[i] / total * change
            parameter.copy_(sum_of)

    @torch.no_grad()
    def take_values(self, other: Trainables) -> None:
        """Become equal to another, which may have adapters on more layers."""
        held = other.adapters.state()
        self.adapters.load({name: held[name] for name in self.adapters.state()})
        if self.head is not None and other.head is not None:
            self.head.load_state_dict(other.head.state_dict())

    def state_dict(self) -> StateDict:
        """Adapters, ``head.<parameter>``, and ``moments/<parameter>/<moment>`` of the optimizer."""
        return copies("", self._values()) | copies("moments/", moments_of(self.optimizer))

    def load_state_dict(self, state: StateDict) -> None:
        """Go on from a state.

        Raises:
            StateError: other names, shapes or types.
        """
        tensors, _ = tensors_and_values(state, ())
        moments = pop_prefix("moments/", tensors)
        copy_into(self._values(), tensors)
        load_moments(self.optimizer, moments)

    def _values(self) -> dict[str, Tensor]:
        head = self.head.named_parameters() if self.head is not None else ()
        return {**self.adapters.state(), **{f"head.{name}": parameter.detach() for name, parameter in head}}

    def forget_moments(self, paths: Iterable[str]) -> None:
        """Drop the optimizer's state of adapters whose values were replaced."""
        drop_state(self.optimizer, (p for path in paths for p in self.adapters.adapters[path].parameters()))


@dataclass(frozen=True)
class StepLoss:
    """A client's mean loss, and the number of labels that it averages.

    ``alone``: the lengths of the texts that the client computed, where it computes each by itself; ``sent``: whether
    activations went up.
    """

    mean: float
    count: int
    alone: tuple[int, ...] | None = None
    sent: bool = True


class GradientSums(NamedTuple):
    """Gradients of the summed loss over ``labels`` labels with respect to ``trained.parameters()``; None: unused."""

    trained: Trainables
    sums: Sequence[Tensor | None]
    labels: int

    @classmethod
    def of_mean(cls, trained: Trainables, gradients: Sequence[Tensor | None], labels: int) -> GradientSums:
        """Those of a client, from the gradients of its mean loss."""
        return cls(trained, [labels * g if g is not None else None for g in gradients], labels)


def build_head(base: FrozenBase, task: BaseTask, seed: int, group: str, device: str | torch.device) -> nn.Module:
    """The head of a task group before training, whether client or server holds it."""
    with forked(seed, "head", group):
        return task.build_head(base.hidden_size, base.lm_head).to(device)


def build_trainables(
    name: str, base: FrozenBase, head: nn.Module, rank: int, first_layer: int, setting: Setting
) -> Trainables:
    """What the server trains of a task group whose first block on the server is ``first_layer``.

    Raises:
        ConfigError: a rank that a layer cannot have.
    """
    training = setting.training
    ranks = setting.ranks(base, rank, range(first_layer, base.n_layers), "server.rank") if rank else {}
    kept = None if training.labels == "client" else head
    return Trainables(name, kept, setting.adapters(base, ranks), training.server_optimizer, training.max_grad_norm)
