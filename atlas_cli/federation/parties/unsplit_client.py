"""Clients of the unsplit baselines (``federated``, ``local-only``, ``centralized``): the whole model, the same
trained parameters.

A baseline trains exactly what the split run trains: adapters of the client's ranks below the cut, adapters of
``server.rank`` above it, and a head, so that a difference in results comes from the protocol and not from capacity.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from atlas_cli.data.collate import Batch
from atlas_cli.federation.parties.measured_memory import tensor_bytes
from atlas_cli.federation.parties.numerics import require_finite, require_finite_gradients
from atlas_cli.federation.parties.optimizers import state_bytes
from atlas_cli.federation.parties.party import Halves, Inputs, Party, TrainedModel, as_inputs
from atlas_cli.federation.parties.split_server import SplitServer
from atlas_cli.federation.parties.trainables import StepLoss, Trainables
from atlas_cli.models.adapters.lora import AdapterSet, joined
from atlas_cli.models.halves.split import run_half
from atlas_cli.tasks.contract import BaseTask
from atlas_cli.wire.ledger import Ledger


class UnsplitClient(Party):
    """A client that holds the whole model.

    Its adapters below ``cut`` are trained with ``client_optimizer``; those above it, and its head, with
    ``server_optimizer``.
    """

    task: BaseTask
    head: nn.Module

    def _half(self) -> nn.Module:
        return self.base.model

    @property
    def exchanged(self) -> AdapterSet:
        """Adapters of all layers."""
        return joined(self.adapters, self.upper)

    def reset_optimizer(self) -> None:
        """Start with fresh moments."""
        lower, upper, norm = self.training.client_optimizer, self.training.server_optimizer, self.training.max_grad_norm
        self._parts = [
            (Trainables(self.name, None, self.adapters, lower, norm), lower.lr),
            (Trainables(self.name, self.head, self.upper, upper, norm), upper.lr),
        ]

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimizers of the adapters below the cut and of the rest, where they train anything."""
        return [part.optimizer for part, _ in self._parts if part.optimizer is not None]

    def local_step(
        self, batch: Batch, round_number: int, step: int, rate_factor: float, server: SplitServer, ledger: Ledger
    ) -> StepLoss:
        """One step of ordinary training, or of DP-SGD; nothing is sent."""
        return self.train_on(batch.inputs(), batch.labels, round_number, step, rate_factor)

    def train_on(
        self, batch: Inputs, labels: Tensor, round_number: int, step: int, rate_factor: float = 1.0
    ) -> StepLoss:
        """One step on inputs by the names of a tokenizer, and their labels."""
        if not len(labels):  # a Poisson sample may be empty
            self.finish_gradients(round_number, step)
            self._apply(0, rate_factor)
            return StepLoss(0.0, 0)
        inputs, mask = as_inputs(batch, self.device)
        whole, by_example = self.exchanged.train(), self.privacy.examples is not None
        # all adapters, where some are not trained
        weights = [*self.half.parameters(), *self.output_embedding(), *self.trained(), *whole.parameters()]
        self.privacy.begin(batch.get("examples"))
        with self.forward_pass(round_number, step, weights) as saved:
            hidden = run_half(self.half, mask, **inputs)
            read = hidden.detach().requires_grad_() if by_example else hidden
            loss, count = self.privacy.loss(self.head, self.task, read, mask, labels.to(self.device))
        what = f"of client {self.name}, round {round_number}, step {step}"
        require_finite(loss.detach(), f"loss {what}")
        with self.attached():  # checkpointed blocks run again in the backward, with their adapters
            if by_example:
                hidden.backward(torch.autograd.grad(loss, read)[0])
            else:
                trained = self.trained()
                for parameter, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
                    parameter.grad = gradient
        self.finish_gradients(round_number, step)
        # before the first part steps, so that no part steps without the others
        require_finite_gradients(self.trained(), self._gradients(), what, whole.name_of)
        self._apply(count, rate_factor)
        if self.usage is not None:
            self.usage.add_step(saved.total, 0, mask.shape[0], mask.numel())
        return StepLoss(loss.item(), count)

    def _gradients(self) -> list[Tensor]:
        """The gradients to step with."""
        return [p.grad for p in self.trained() if p.grad is not None]

    def finish_step(self) -> None:
        """The step that waited."""
        self._apply(*self._waiting)

    def _apply(self, count: int, rate_factor: float) -> None:
        if self.control is not None and self.control.waits:
            self._waiting = count, rate_factor
            return
        gradients = iter(self._gradients())
        for part, rate in self._parts:
            part.gather([next(gradients) for _ in part.parameters()], max(count, 1))
            if self.usage is not None:
                self.usage.gradients = tensor_bytes(self.trained())
            part.step(rate_factor * rate)
        self.end_step(sum(state_bytes(part.optimizer) for part, _ in self._parts))

    def model(self, server: SplitServer, part: str) -> TrainedModel:
        """The whole model that it trained."""
        return TrainedModel(self.exchanged, self.head, Halves(self.base, self.base, self.cut))
