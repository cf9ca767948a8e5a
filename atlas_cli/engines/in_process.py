"""All parties in one process: messages are passed by reference, and counted as if serialised.

One client is served at a time, so that only one client's graph is alive; the result is that of serving all at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from atlas_cli.data.collate import Batch, batch_indices, collate, poisson_indices
from atlas_cli.engines.trained import Trained
from atlas_cli.errors import NonFiniteError
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.client import SplitClient
from atlas_cli.federation.optimizers import learning_rate_factor
from atlas_cli.federation.parties import Federation
from atlas_cli.federation.protocol import Ledger, Message, activation_bytes
from atlas_cli.federation.server import SplitServer
from atlas_cli.federation.unsplit import UnsplitClient
from atlas_cli.seeding import numpy_generator


def local_steps(
    federation: Federation,
    attendance: Attendance,
    ledger: Ledger,
    on_step: Callable[[int, dict[str, Trained]], None],
) -> dict[str, Trained]:
    """The local steps of a round for those that are present; who is dropped on the way leaves ``attendance``.

    Returns:
        What every client that began the round did, the dropped ones until then.

    Raises:
        NonFiniteError: with ``training.on_nonfinite: stop``, or where it is nobody's in particular.
    """
    training, server, number = federation.config.training, federation.server, attendance.number
    total = training.rounds * training.local_steps
    done = {client: Trained() for client in attendance.present}
    if server is not None:
        cuts = {c: party.cut for c in done if isinstance(party := federation.clients[c], SplitClient)}
        server.begin_round({c: federation.part_of(c) for c in done}, number, cuts)
    for step in range(training.local_steps):
        overall = (number - 1) * training.local_steps + step
        factor = learning_rate_factor(training.schedule, overall, total)
        if server is not None:
            server.begin_step(step, factor * training.server_optimizer.lr)
        for client in _order(federation, attendance.present, overall):
            if attendance.crashes(client, step):
                continue
            began = time.perf_counter()
            batch = batch_of(federation, client, overall)
            try:
                loss, count = _local_step(federation, client, batch, number, step, factor, ledger)
                done[client].add(batch, loss, count, time.perf_counter() - began)
                late = attendance.passes_deadline(client, done[client], ledger, step)
                if server is not None and not late:
                    server.accept()
            except NonFiniteError as error:
                if training.on_nonfinite == "stop":
                    raise
                attendance.drop(client, str(error).partition(";")[0])
            if server is not None and client not in attendance.present:
                server.reject()
        if server is not None:
            server.finish_step()
        on_step(step, done)
    return done


def _local_step(
    federation: Federation, client: str, batch: Batch, number: int, step: int, factor: float, ledger: Ledger
) -> tuple[float, int]:
    """One step of one client, the server's gradients not yet accepted: the mean loss and its count."""
    party, training = federation.clients[client], federation.config.training
    if isinstance(party, UnsplitClient):
        return party.local_step(batch.inputs(), batch.labels, number, step, factor)
    assert federation.server is not None
    if not batch.features:  # a Poisson sample may be empty
        party.step_on_noise(number, step, factor * training.client_optimizer.lr)
        return 0.0, 0
    down, loss, count = exchange(federation.server, party, batch, number, step, ledger)
    party.apply_gradients(down.tensors["gradients"], factor * training.client_optimizer.lr)
    return loss, count


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
    codec, element = client.privacy.codec, client.base.dtype.itemsize
    token = hidden * element if codec is None else codec.token_bytes(hidden)
    cut = shape[0] * shape[1] * token
    # features keep the server's dtype
    above = cut if codec is not None else shape[0] * shape[1] * hidden * server.base.dtype.itemsize

    def sent(message: Message, closed_form: int) -> Message:
        wire = message if codec is None else codec.encode(message)
        ledger.count(wire, closed_form)
        return message if codec is None else codec.decode(wire, message)

    if server.training.labels == "server":
        up = client.forward(batch.inputs(), round_number, step, batch.labels)
        labels = batch.labels.numel()
        up = sent(up, activation_bytes(shape[0], shape[1], token, 1, labels))
        down, step_loss = server.answer(up)
        loss, count = step_loss.mean, step_loss.count
    else:
        up = client.forward(batch.inputs(), round_number, step, None)
        up = sent(up, activation_bytes(shape[0], shape[1], token, 1, 0))
        features = sent(server.features(up), above)
        back, loss, count = client.answer_features(features, batch.labels)
        down = server.answer_gradients(sent(back, above + 8))
    if client.privacy.padding is not None:
        down = client.privacy.padding.cover(down, batch.attention_mask, round_number, step)
    return sent(down, cut), loss, count


def batch_of(federation: Federation, client: str, overall: int) -> Batch:
    """A client's batch at a local step, counted over all rounds."""
    features = federation.train_features(client)
    lengths, seed = [len(f["input_ids"]) for f in features], federation.config.seed
    if federation.config.privacy.examples is not None:
        rows = poisson_indices(len(lengths), federation.protection.spent.rate(client), seed, client, overall)
    else:
        rows = batch_indices(lengths, federation.batch_size(client), seed, client, overall)
    task = federation.data[federation.group_of(client)].task
    return collate(task, [features[i] for i in rows], federation.pad, *federation.padding)


def _order(federation: Federation, cohort: list[str], overall: int) -> list[str]:
    # a sequential server update depends on the order, so it is drawn anew each step; the others do not depend on it
    if federation.config.training.server_update != "sequential":
        return list(cohort)
    order = numpy_generator(federation.config.seed, "order", overall).permutation(len(cohort))
    return [cohort[i] for i in order]
