"""A client that learns by a loss of its own, at an auxiliary head (Han et al. 2021; CSE-FSL, 2507.15816).

Forward, local loss and backward end at the client: no gradient comes down, and the client waits for nobody. Every
``training.auxiliary.every``-th step of a round, from the first on, its activations go up with the labels, as they were
before the step, and the server learns from them. Adapters and head are merged at the end of a round.
"""

from __future__ import annotations

from torch import Tensor

from atlas_cli.data.collate import Batch
from atlas_cli.federation.parties.exchange import exchange_up
from atlas_cli.federation.parties.measured_memory import tensor_bytes
from atlas_cli.federation.parties.numerics import require_finite
from atlas_cli.federation.parties.party import Halves, Inputs, TrainedModel, as_inputs
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.federation.parties.split_server import SplitServer
from atlas_cli.federation.parties.trainables import StepLoss
from atlas_cli.models.adapters.lora import joined
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import Activations


class AuxiliaryClient(SplitClient):
    """A client of a split with a head of its own, at which it trains its adapters; see the module."""

    alone = True

    def local_step(
        self, batch: Batch, round_number: int, step: int, rate_factor: float, server: SplitServer, ledger: Ledger
    ) -> StepLoss:
        """One local step, and the server's where activations go up; the loss is the server's."""
        rate = rate_factor * self.training.client_optimizer.lr
        up = self.learn_batch(batch, round_number, step, rate)
        return StepLoss(0.0, 0, sent=False) if up is None else exchange_up(server, self, batch, up, ledger)

    def learn_batch(self, batch: Batch, round_number: int, step: int, learning_rate: float) -> Activations | None:
        """Train on a batch; its activations as they cross the wire, where they go up."""
        message = self.learn(batch.inputs(), batch.labels, round_number, step, learning_rate)
        return None if message is None else self.encoded(message, batch)

    def learn(
        self, batch: Inputs, labels: Tensor, round_number: int, step: int, learning_rate: float
    ) -> Activations | None:
        """Train on a batch; its activations, where they go up."""
        assert self.head is not None and self.task is not None, "a client that learns at a head has one"
        self.begin_step(round_number, step)
        inputs, mask = as_inputs(batch, self.device)
        lower, upper = [*self.half.parameters(), *self.adapters.parameters()], self.head.parameters()
        weights = [*lower, *upper, *self.output_embedding()]
        with self.forward_pass(round_number, step, weights) as saved:
            hidden = self._below_cut(inputs, mask)
            loss, _ = self.task.loss(self.head(hidden, mask), labels.to(self.device))
        if self.usage is not None:  # of what crosses the cut there are the activations alone
            self.usage.add_step(saved.total, hidden.nbytes, hidden.shape[0], hidden.shape[0] * hidden.shape[1])
        require_finite(loss.detach(), f"local loss of {self.when}")
        with self.attached():  # checkpointed blocks run again in the backward, with their adapters
            loss.backward()
        self.finish_gradients(round_number, step)
        if self.usage is not None:
            self.usage.gradients = tensor_bytes(p.grad for p in self.trained())
        self.step(learning_rate)
        return None if step % self.training.auxiliary.every else self.send(hidden.detach(), mask, labels)

    def model(self, server: SplitServer, part: str) -> TrainedModel:
        """Its own blocks and adapters, and above them the server's and the server's head."""
        whole = joined(self.adapters, server.adapters_above(part, self.cut))
        return TrainedModel(whole, server.heads[part], Halves(self.base, server.base, self.cut))
