"""The client side of the split: the frozen lower blocks (a view of the shared base), adapters and an optimizer."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from atlas_cli.data.collate import Batch
from atlas_cli.federation.parties.exchange import exchange
from atlas_cli.federation.parties.measured_memory import saved_if_measured, tensor_bytes
from atlas_cli.federation.parties.numerics import clip_and_step, gradient_of, precision, require_finite
from atlas_cli.federation.parties.optimizers import build_optimizer, set_learning_rate, state_bytes
from atlas_cli.federation.parties.party import Halves, Inputs, Party, TrainedModel, as_inputs
from atlas_cli.federation.parties.split_server import SplitServer
from atlas_cli.federation.parties.trainables import StepLoss
from atlas_cli.models.adapters.lora import AdapterSet, joined
from atlas_cli.models.block_paths import by_layer
from atlas_cli.models.halves.split import run_half
from atlas_cli.models.halves.transfer import to_device
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import Activations, FeatureGradients, Features


class SplitClient(Party):
    """A client that holds blocks ``0 .. cut-1``, frozen, and trains LoRA adapters on them.

    It has a head only when labels stay on the client (U-shaped split).

    Attributes:
        now: round and step of its local step; (0, 0) outside a run.
    """

    now = (0, 0)
    _activations: Tensor | None = None
    _mask: Tensor | None = None
    _step_bytes = (0, 0)

    def _half(self) -> nn.Module:
        return self.base.client_half(self.cut)

    @property
    def exchanged(self) -> AdapterSet:
        """Its adapters."""
        return self.adapters

    @cached_property
    def lowest(self) -> int:
        """The lowest block that is trained."""
        return min(by_layer(self.ranks, self.base.family), default=self.cut)

    @property
    def when(self) -> str:
        """Who it is, and where in a run, for messages."""
        return f"client {self.name}, round {self.now[0]}, step {self.now[1]}"

    def reset_optimizer(self) -> None:
        """Start with fresh moments."""
        self.optimizer = build_optimizer(self.trained(), self.training.client_optimizer)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Its one optimizer, where it trains anything."""
        return [self.optimizer] if self.optimizer is not None else []

    def compute_activations(self, batch: Inputs) -> Tensor:
        """The activations at the cut for a batch: (B, T, D), or (B, D) for ``inputs`` of that shape.

        Args:
            batch: ``input_ids`` and ``attention_mask`` as a tokenizer gives them, or ``inputs``: embeddings (B, D) or
                (B, T, D).

        The graph is kept for ``apply_gradients``.
        """
        activations = self.forward(batch, 0, 0, None).activations
        squeeze = "inputs" in batch and batch["inputs"].dim() == 2
        return activations[:, 0] if squeeze else activations

    def apply_gradients(self, gradients: Tensor, learning_rate: float | None = None) -> None:
        """Back-propagate the gradient that the server returned for the last activations, and step the adapters."""
        self.backward(gradients)
        self.step(learning_rate)

    def backward(self, gradients: Tensor) -> None:
        """Back-propagate the gradient at the cut into the adapters' gradients."""
        assert self._activations is not None, "compute_activations comes first"
        activations, self._activations = self._activations, None
        require_finite(gradients, f"gradient sent to {self.when}")
        with self.attached():
            self.privacy.backward(activations, gradients.view_as(activations), self._mask)
        self.finish_gradients(*self.now)
        if self.usage is not None:
            self.usage.gradients = tensor_bytes(p.grad for p in self.trained())

    def step_on_noise(self, round_number: int, step: int, learning_rate: float) -> None:
        """The local step of an empty sample, with DP-SGD."""
        self.finish_gradients(round_number, step)
        self.step(learning_rate)

    def step(self, learning_rate: float | None = None) -> None:
        """Clip, step and drop the gradients; later, where they wait for those of others (``take_mean``)."""
        if self.control is not None and self.control.waits:
            self._rate = learning_rate
            return
        norm, name_of = self.training.max_grad_norm, self.adapters.name_of
        for optimizer in self.optimizers():
            if learning_rate is not None:
                set_learning_rate(optimizer, learning_rate)
            clip_and_step(optimizer, self.trained(), norm, f"of {self.when}", name_of)
        self.end_step(state_bytes(self.optimizer))

    def finish_step(self) -> None:
        """The step that waited."""
        self.step(self._rate)

    def local_step(
        self, batch: Batch, round_number: int, step: int, rate_factor: float, server: SplitServer, ledger: Ledger
    ) -> StepLoss:
        """One local step through the split; the server's gradients are not accepted yet."""
        rate = rate_factor * self.training.client_optimizer.lr
        if not batch.features:  # a Poisson sample may be empty
            self.step_on_noise(round_number, step, rate)
            return StepLoss(0.0, 0)
        down, loss = exchange(server, self, batch, self.forward_batch(batch, round_number, step), ledger)
        self.apply_gradients(self.wire.decode(down).gradients, rate)
        return loss

    def forward_batch(self, batch: Batch, round_number: int, step: int) -> Activations:
        """The activation message of a batch, as it crosses the wire."""
        stay = self.training.labels == "client"
        message = self.forward(batch.inputs(), round_number, step, None if stay else batch.labels)
        return self.encoded(message, batch)

    def encoded(self, message: Activations, batch: Batch) -> Activations:
        """The activation message of a batch as it crosses the wire."""
        return self.wire.encode(self.wire.number(message, batch.numbers), self.now)

    def forward(self, batch: Inputs, round_number: int, step: int, labels: Tensor | None) -> Activations:
        """The activation message of a batch, with ``labels`` unless they stay on the client."""
        self.begin_step(round_number, step)
        self.privacy.begin(batch.get("examples"))
        inputs, mask = as_inputs(batch, self.device)
        return self.send(self._run(inputs, mask), mask, labels)

    def begin_step(self, round_number: int, step: int) -> None:
        """Begin a local step, with the adapters in training mode."""
        self.now = round_number, step
        self.adapters.train()

    def send(self, activations: Tensor, mask: Tensor, labels: Tensor | None) -> Activations:
        """The message of the computed activations."""
        self._mask = mask
        return Activations(
            self.name, activations, mask.bool(), to_device(labels, self.device) if labels is not None else None
        )

    def answer_features(self, message: Features, labels: Tensor) -> tuple[FeatureGradients, StepLoss]:
        """U-shaped split: the loss at the client's own head, and its gradient with respect to the features.

        Both messages are as they cross the wire.
        """
        assert self.head is not None and self.task is not None, "labels: server keeps the head on the server"
        received = self.wire.decode(message).features.requires_grad_()
        weights = [*self.head.parameters(), *self.output_embedding(), *self.half.parameters()]
        with precision(self.device, self.training.autocast), saved_if_measured(self.usage, weights) as saved:
            loss, count = self.privacy.loss(self.head, self.task, received, self._mask, labels.to(self.device))
        self._measured(saved.total, received)  # the graph of the half is alive meanwhile
        require_finite(loss.detach(), f"loss of {self.when}")
        loss.backward()
        back = FeatureGradients(self.name, gradient_of(received), torch.tensor(count))
        return self.wire.encode(back, self.now), StepLoss(loss.item(), count)

    def _run(self, inputs: dict[str, Tensor], mask: Tensor) -> Tensor:
        if "inputs_embeds" in inputs:
            inputs = {**inputs, "inputs_embeds": inputs["inputs_embeds"].to(self.base.dtype)}
        head = self.head.parameters() if self.head is not None else ()  # a bottleneck is a part of it
        weights = [*self.half.parameters(), *self.adapters.parameters(), *head]
        with self.forward_pass(*self.now, weights) as saved:
            activations = self._below_cut(inputs, mask)
            activations = self.privacy.sent(activations, mask, lambda: self._embedded(inputs), self.head, *self.now)
        self._activations, self._mask, self._step_bytes = activations, mask, (0, 0)
        self._measured(saved.total, activations)
        return activations.detach()

    def _below_cut(self, inputs: dict[str, Tensor], mask: Tensor) -> Tensor:
        """The output of its blocks, in a forward pass."""
        below = self.prefix.outputs(inputs, mask) if self.prefix is not None else None
        if self.prefix is not None and below is not None:
            return run_half(self.prefix.upper, mask, inputs_embeds=below)
        return run_half(self.half, mask, **inputs)

    def _embedded(self, inputs: Inputs) -> Tensor:
        model: Any = self.base.model
        embedding = model.get_input_embeddings()
        return inputs["inputs_embeds"] if "inputs_embeds" in inputs else embedding(inputs["input_ids"]).detach()

    def _measured(self, saved: int, at_cut: Tensor) -> None:
        """Enter bytes saved for the backward of hidden states (B, T, D), and those of what is sent and comes back."""
        if self.usage is not None:
            self._step_bytes = (self._step_bytes[0] + saved, self._step_bytes[1] + 2 * at_cut.nbytes)
            self.usage.add_step(*self._step_bytes, at_cut.shape[0], at_cut.shape[0] * at_cut.shape[1])

    def model(self, server: SplitServer, part: str) -> TrainedModel:
        """Its own blocks and adapters, and above them the server's."""
        whole = joined(self.adapters, server.adapters_above(part, self.cut))
        head = self.head if self.head is not None else server.heads[part]
        return TrainedModel(whole, head, Halves(self.base, server.base, self.cut))
