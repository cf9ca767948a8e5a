"""All parties in one process: messages are passed by reference, and counted as if serialised.

One client is served at a time, so that only one client's graph is alive; the result is that of serving all at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from atlas_cli.data.collate import Batch, batch_indices, collate
from atlas_cli.federation.build import Federation
from atlas_cli.federation.client import SplitClient
from atlas_cli.federation.optimizers import learning_rate_factor
from atlas_cli.federation.protocol import Ledger, Message, activation_bytes
from atlas_cli.federation.server import SplitServer
from atlas_cli.federation.unsplit import UnsplitClient
from atlas_cli.seeding import numpy_generator


@dataclass
class Trained:
    """What one client did in a round.

    Steps, examples, real tokens, wall seconds, the sum of loss over ``labels``, and the
    padded shape of every batch.
    """

    steps: int = 0
    examples: int = 0
    tokens: int = 0
    labels: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    shapes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def loss(self) -> float | None:
        """Mean loss over all labels of the round."""
        return self.loss_sum / self.labels if self.labels else None

    def add(self, batch: Batch, loss: float, count: int, seconds: float) -> None:
        """Count one step."""
        self.seconds += seconds
        self.shapes.append((batch.input_ids.shape[0], batch.input_ids.shape[1]))
        self.steps += 1
        self.examples += batch.n_examples
        self.tokens += batch.n_tokens
        self.labels += count
        self.loss_sum += loss * count


def run_round(
    federation: Federation,
    cohort: list[str],
    round_number: int,
    ledger: Ledger,
    on_step: Callable[[int, dict[str, Trained]], None],
) -> dict[str, Trained]:
    """The local steps of one round (from 1) for the clients of ``cohort``."""
    training = federation.config.training
    total = training.rounds * training.local_steps
    done = {client: Trained() for client in cohort}
    if federation.server is not None:
        cuts = {c: party.cut for c in cohort if isinstance(party := federation.clients[c], SplitClient)}
        federation.server.begin_round({c: federation.part_of(c) for c in cohort}, round_number, cuts)
    for step in range(training.local_steps):
        overall = (round_number - 1) * training.local_steps + step
        factor = learning_rate_factor(training.schedule, overall, total)
        if federation.server is not None:
            federation.server.begin_step(step, factor * training.server_optimizer.lr)
        for client in _order(federation, cohort, overall):
            began = time.perf_counter()
            party, batch = federation.clients[client], _batch(federation, client, overall)
            if isinstance(party, UnsplitClient):
                loss, count = party.local_step(batch.inputs(), batch.labels, round_number, step, factor)
            else:
                assert federation.server is not None
                rate = factor * training.client_optimizer.lr
                down, loss, count = exchange(federation.server, party, batch, round_number, step, ledger)
                party.apply_gradients(down.tensors["gradients"], rate)
            done[client].add(batch, loss, count, time.perf_counter() - began)
        if federation.server is not None:
            federation.server.finish_step()
        on_step(step, done)
    if federation.server is not None:
        federation.server.finish_round()
    return done


def exchange(
    server: SplitServer,
    client: SplitClient,
    batch: Batch,
    round_number: int,
    step: int,
    ledger: Ledger,
) -> tuple[Message, float, int]:
    """The messages of one step: two, or four when labels stay on the client; the gradient message, mean loss, count."""
    shape, hidden = batch.input_ids.shape, server.base.hidden_size
    element = client.base.dtype.itemsize
    cut = shape[0] * shape[1] * hidden * element
    above = shape[0] * shape[1] * hidden * server.base.dtype.itemsize  # features keep the server's dtype

    def sent(message: Message, closed_form: int) -> Message:
        ledger.count(message, closed_form)
        return message

    if server.training.labels == "server":
        up = client.forward(batch.inputs(), round_number, step, batch.labels)
        labels = batch.labels.numel()
        sent(up, activation_bytes(shape[0], shape[1], hidden, element, labels))
        down, step_loss = server.answer(up)
        loss, count = step_loss.mean, step_loss.count
    else:
        up = client.forward(batch.inputs(), round_number, step, None)
        sent(up, activation_bytes(shape[0], shape[1], hidden, element, 0))
        features = sent(server.features(up), above)
        back, loss, count = client.answer_features(features, batch.labels)
        down = server.answer_gradients(sent(back, above + 8))
    return sent(down, cut), loss, count


def _batch(federation: Federation, client: str, overall: int) -> Batch:
    features = federation.train_features(client)
    lengths = [len(f["input_ids"]) for f in features]
    rows = batch_indices(lengths, federation.batch_size(client), federation.config.seed, client, overall)
    task = federation.data[federation.group_of(client)].task
    return collate(task, [features[i] for i in rows], federation.pad)


def _order(federation: Federation, cohort: list[str], overall: int) -> list[str]:
    # a sequential server update depends on the order, so it is drawn anew each step; the others do not depend on it
    if federation.config.training.server_update != "sequential":
        return cohort
    order = numpy_generator(federation.config.seed, "order", overall).permutation(len(cohort))
    return [cohort[i] for i in order]
