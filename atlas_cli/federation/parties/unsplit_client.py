"""Clients of the unsplit baselines (``federated``, ``local-only``, ``centralized``): the whole model, the same
trained parameters.

A baseline trains exactly what the split run trains: adapters of the client's ranks below the cut, adapters of
``server.rank`` above it, and a head; so that a difference in figures comes from the protocol and not from capacity.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from atlas_cli.aggregation.client_gradients import apply_term, term_bytes
from atlas_cli.aggregation.contract import ClientTerm
from atlas_cli.config.schema.experiment import LoraConfig, TrainingConfig
from atlas_cli.federation.parties.measured_memory import Usage, saved_bytes, tensor_bytes
from atlas_cli.federation.parties.numerics import precision, require_finite, require_finite_gradients, seeded_dropout
from atlas_cli.federation.parties.optimizers import drop_state, state_bytes
from atlas_cli.federation.parties.split_client import Inputs, as_inputs
from atlas_cli.federation.parties.trainables import StepLoss, Trainables
from atlas_cli.models.adapters.lora import AdapterSet, joined
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.halves.checkpointing import checkpointed
from atlas_cli.models.halves.split import run_half
from atlas_cli.privacy.mechanisms.examples import ExampleNoise
from atlas_cli.tasks.contract import BaseTask


class UnsplitClient:
    """A client that holds the whole model.

    Args:
        name: as in the config.
        base: the shared frozen base.
        adapters: below the cut, trained with ``client_optimizer``.
        upper: adapters above the cut, and ``head``: trained with ``server_optimizer``.
    """

    def __init__(
        self,
        name: str,
        base: FrozenBase,
        task: BaseTask,
        adapters: AdapterSet,
        upper: AdapterSet,
        head: nn.Module,
        lora: LoraConfig,
        training: TrainingConfig,
        seed: int,
        device: torch.device,
        checkpointing: bool = False,
    ) -> None:
        self.name, self.base, self.task = name, base, task
        self.adapters, self.upper, self.head = adapters, upper, head
        self.lora, self.training, self.seed, self.device = lora, training, seed, device
        self.checkpointing = checkpointing
        self.usage: Usage | None = None
        self.term: ClientTerm | None = None
        self.example_noise: ExampleNoise | None = None
        self.reset_optimizer()

    def output_embedding(self) -> list[Tensor]:
        """Frozen weights of a language-model head, where they are not tied to the input embedding."""
        if not self.task.causal_only or self.base.lm_head is None:
            return []
        held = {p.data_ptr() for p in self.base.model.parameters()}
        return [p for p in self.base.lm_head.parameters() if p.data_ptr() not in held]

    def forget_moments(self, parts: Collection[str]) -> None:
        """Drop the moments of ``parts`` ("A", "B", "head"): a delivery replaced what they described."""
        for trained in (part for part, _ in self._parts if part.optimizer is not None):
            assert trained.optimizer is not None
            drop_state(trained.optimizer, trained.adapters.trained(parts))
            if trained.head is not None and "head" in parts:
                drop_state(trained.optimizer, trained.head.parameters())

    def train_only(self, parts: Collection[str]) -> None:
        """Freeze the other parts of the adapters; all layers are merged."""
        self.adapters.train_only(parts)
        self.upper.train_only(parts)
        self.reset_optimizer()

    def reset_optimizer(self) -> None:
        """Start with fresh moments."""
        norm, training = self.training.max_grad_norm, self.training
        self._parts = [
            (Trainables(self.name, None, self.adapters, training.client_optimizer, norm), training.client_optimizer.lr),
            (
                Trainables(self.name, self.head, self.upper, training.server_optimizer, norm),
                training.server_optimizer.lr,
            ),
        ]

    def trained(self) -> list[nn.Parameter]:
        """Adapters of all layers, and the head."""
        return [p for part, _ in self._parts for p in part.parameters()]

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """For checkpoints: those of the adapters below the cut and of the rest, where they train anything."""
        return [part.optimizer for part, _ in self._parts if part.optimizer is not None]

    def _ranks(self) -> dict[str, int]:
        return {path: a.rank for part in (self.adapters, self.upper) for path, a in part.adapters.items()}

    def local_step(self, batch: Inputs, labels: Tensor, round_number: int, step: int, rate_factor: float) -> StepLoss:
        """One step of ordinary training, or of DP-SGD."""
        if not len(labels):  # a Poisson sample may be empty
            self._privatise(round_number, step)
            self._apply(self._corrected(), 0, rate_factor)
            return StepLoss(0.0, 0)
        inputs, mask = as_inputs(batch, self.device)
        self.adapters.train()
        self.upper.train()
        measured = self.usage is not None
        frozen = [*self.adapters.parameters(), *self.upper.parameters()]  # all of them, where some are not trained
        noise, whole = self.example_noise, joined(self.adapters, self.upper)
        weights = [*self.base.model.parameters(), *self.output_embedding(), *self.trained(), *frozen]
        if noise is not None:
            noise.begin(batch.get("examples"))
        with (
            seeded_dropout(self.lora.dropout, self.seed, self.name, round_number, step, device=self.device),
            precision(self.device, self.training.autocast),
            self.adapters.attached(self.base.model),
            self.upper.attached(self.base.model),
            noise.recording(self.base.model, whole) if noise is not None else nullcontext(),
            checkpointed(self.base.model, self.base.family, self._ranks()) if self.checkpointing else nullcontext(),
            saved_bytes(weights) if measured else nullcontext() as saved,
        ):
            hidden = run_half(self.base.model, mask, **inputs)
            if noise is None:
                loss, count = self.task.loss(self.head(hidden, mask), labels.to(self.device))
            else:
                leaf = hidden.detach().requires_grad_()
                loss, count = noise.head_loss(self.head, self.task, leaf, mask, labels.to(self.device))
        require_finite(loss.detach(), f"loss of client {self.name}, round {round_number}, step {step}")
        # checkpointed blocks run again in the backward, with their adapters
        with self.adapters.attached(self.base.model), self.upper.attached(self.base.model):
            if noise is None:
                trained = self.trained()
                for parameter, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
                    parameter.grad = gradient
            else:
                hidden.backward(torch.autograd.grad(loss, leaf)[0])
                self._privatise(round_number, step)
        found = self._corrected()
        # before the first part steps, so that no part steps without the others
        what = f"of client {self.name}, round {round_number}, step {step}"
        require_finite_gradients(self.trained(), found, what, whole.name_of)
        self._apply(found, count, rate_factor)
        if self.usage is not None and saved is not None:
            self.usage.seen(saved.total, 0, mask.shape[0], mask.numel())
            self.usage.optimizer = sum(state_bytes(part.optimizer) for part, _ in self._parts) + term_bytes(self.term)
        return StepLoss(loss.item(), count)

    def _privatise(self, round_number: int, step: int) -> None:
        """With DP-SGD, the gradients of the last batch, or of none."""
        assert self.example_noise is not None
        self.example_noise.privatise(self.trained(), joined(self.adapters, self.upper), round_number, step)

    def _corrected(self) -> list[Tensor]:
        """The gradients to step with."""
        apply_term(self.term, joined(self.adapters, self.upper))
        return [p.grad for p in self.trained() if p.grad is not None]

    def _apply(self, found: list[Tensor], count: int, rate_factor: float) -> None:
        gradients = iter(found)
        for part, rate in self._parts:
            part.gather([next(gradients) for _ in part.parameters()], max(count, 1))
            if self.usage is not None:
                self.usage.gradients = tensor_bytes(self.trained())
            part.step(rate_factor * rate)

    def measure(self) -> Usage:
        """Start measuring; what is held now is counted at once, the rest as steps happen."""
        adapters = [*self.adapters.parameters(), *self.upper.parameters()]
        self.usage = Usage.held(self.base.model, adapters, [*self.head.parameters(), *self.output_embedding()])
        return self.usage
