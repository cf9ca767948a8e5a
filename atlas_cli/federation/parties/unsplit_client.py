"""Clients of the unsplit baselines (``federated``, ``local-only``, ``centralized``): the whole model, the same
trained parameters.

A baseline trains exactly what the split run trains: adapters of the client's ranks below the cut, adapters of
``server.rank`` above it, and a head, so that a difference in results comes from the protocol and not from capacity.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from atlas_cli.aggregation.client_gradients import apply_term, term_bytes
from atlas_cli.data.collate import Batch
from atlas_cli.federation.parties.measured_memory import saved_if_measured, tensor_bytes
from atlas_cli.federation.parties.numerics import precision, require_finite, require_finite_gradients, seeded_dropout
from atlas_cli.federation.parties.optimizers import state_bytes
from atlas_cli.federation.parties.party import Halves, Inputs, Party, TrainedModel, as_inputs
from atlas_cli.federation.parties.server import Server
from atlas_cli.federation.parties.setting import Setting
from atlas_cli.federation.parties.trainables import StepLoss, Trainables
from atlas_cli.models.adapters.lora import AdapterSet, joined
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.halves.checkpointing import checkpointed
from atlas_cli.models.halves.split import run_half
from atlas_cli.tasks.contract import BaseTask
from atlas_cli.wire.ledger import Ledger


class UnsplitClient(Party):
    """A client that holds the whole model.

    Args:
        name: as in the config.
        base: the shared frozen base.
        cut, ranks: blocks below ``cut`` have adapters of ``ranks``, by path, trained with ``client_optimizer``.
        upper_ranks: of the adapters above, which are trained with ``server_optimizer``, and so is ``head``.
        checkpointing: blocks keep their input only and run again in the backward.
    """

    def __init__(
        self,
        name: str,
        base: FrozenBase,
        cut: int,
        ranks: Mapping[str, int],
        setting: Setting,
        *,
        upper_ranks: Mapping[str, int],
        task: BaseTask,
        head: nn.Module,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(name, base, base.model, cut, ranks, setting)
        self.upper = setting.adapters(base, upper_ranks)
        self.task: BaseTask = task
        self.head: nn.Module = head
        self.checkpointing = checkpointing
        self.reset_optimizer()

    @property
    def exchanged(self) -> AdapterSet:
        """Adapters of all layers."""
        return joined(self.adapters, self.upper)

    def forget_moments(self, parts: Collection[str]) -> None:
        """Drop the moments of ``parts`` ("A", "B", "head"): a delivery replaced what they described."""
        for trained, _ in self._parts:
            trained.forget_moments_of(parts)

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
        """The optimizers of the adapters below the cut and of the rest, where they train anything."""
        return [part.optimizer for part, _ in self._parts if part.optimizer is not None]

    def _ranks(self) -> dict[str, int]:
        return {path: a.rank for part in (self.adapters, self.upper) for path, a in part.adapters.items()}

    def local_step(
        self, batch: Batch, round_number: int, step: int, rate_factor: float, server: Server, ledger: Ledger
    ) -> StepLoss:
        """One step of ordinary training, or of DP-SGD; nothing is sent."""
        return self.train_on(batch.inputs(), batch.labels, round_number, step, rate_factor)

    def train_on(
        self, batch: Inputs, labels: Tensor, round_number: int, step: int, rate_factor: float = 1.0
    ) -> StepLoss:
        """One step on inputs by the names of a tokenizer, and their labels."""
        if not len(labels):  # a Poisson sample may be empty
            self._privatise(round_number, step)
            self._apply(self._corrected(), 0, rate_factor)
            return StepLoss(0.0, 0)
        inputs, mask = as_inputs(batch, self.device)
        self.adapters.train()
        self.upper.train()
        frozen = [*self.adapters.parameters(), *self.upper.parameters()]  # all of them, where some are not trained
        noise, whole = self.privacy.examples, self.exchanged
        weights = [*self.base.model.parameters(), *self.output_embedding(), *self.trained(), *frozen]
        self.privacy.begin(batch.get("examples"))
        with (
            seeded_dropout(self.lora.dropout, self.seed, self.name, round_number, step, device=self.device),
            precision(self.device, self.training.autocast),
            self.adapters.attached(self.base.model),
            self.upper.attached(self.base.model),
            self.privacy.recording(self.base.model, whole),
            checkpointed(self.base.model, self.base.family, self._ranks()) if self.checkpointing else nullcontext(),
            saved_if_measured(self.usage, weights) as saved,
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
        if self.usage is not None:
            self.usage.add_step(saved.total, 0, mask.shape[0], mask.numel())
            self.usage.optimizer = sum(state_bytes(part.optimizer) for part, _ in self._parts) + term_bytes(self.term)
        return StepLoss(loss.item(), count)

    def _privatise(self, round_number: int, step: int) -> None:
        """With DP-SGD, the gradients of the last batch, or of none."""
        self.privacy.privatise(self.trained(), self.exchanged, (round_number, step))

    def _corrected(self) -> list[Tensor]:
        """The gradients to step with."""
        apply_term(self.term, self.exchanged)
        return [p.grad for p in self.trained() if p.grad is not None]

    def _apply(self, found: list[Tensor], count: int, rate_factor: float) -> None:
        gradients = iter(found)
        for part, rate in self._parts:
            part.gather([next(gradients) for _ in part.parameters()], max(count, 1))
            if self.usage is not None:
                self.usage.gradients = tensor_bytes(self.trained())
            part.step(rate_factor * rate)

    def model(self, server: Server, part: str) -> TrainedModel:
        """The whole model that it trained."""
        return TrainedModel(self.exchanged, self.head, Halves(self.base, self.base, self.cut))
