"""All parties in one process: messages are passed by reference, and counted as if serialised.

One pass of clients is served at a time, so that only its graph is alive; the result is that of serving all at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from atlas_cli.data.collate import Batch
from atlas_cli.engines.passes import one_by_one, order_of, passes
from atlas_cli.errors import NonFiniteError
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.batches import batch_of
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.parties.exchange import exchange, reply, reply_to_all
from atlas_cli.federation.parties.optimizers import learning_rate_factor
from atlas_cli.federation.parties.shared_client_pass import ClientPass
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.federation.parties.trainables import StepLoss
from atlas_cli.federation.parties.unsplit_client import UnsplitClient
from atlas_cli.federation.work_done import Trained
from atlas_cli.wire.ledger import Ledger


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
        server.real_tokens = one_by_one(federation.config, federation.base.config) is None
        server.begin_round({c: federation.part_of(c) for c in done}, number, cuts)
    for step in range(training.local_steps):
        overall = (number - 1) * training.local_steps + step
        factor = learning_rate_factor(training.schedule, overall, total)
        if server is not None:
            server.begin_step(step, factor * training.server_optimizer.lr)
        left = [c for c in order_of(federation, attendance.present, overall) if not attendance.crashes(c, step)]
        batches = {client: batch_of(federation, client, overall) for client in left}
        for clients, shared in passes(federation, batches):
            if shared:
                _shared_step(federation, {c: batches[c] for c in clients}, number, step, factor, ledger, done)
                continue
            for client in clients:
                _own_step(federation, attendance, client, batches[client], step, factor, ledger, done[client])
        if server is not None:
            server.finish_step()
        on_step(step, done)
    return done


def _own_step(
    federation: Federation,
    attendance: Attendance,
    client: str,
    batch: Batch,
    step: int,
    factor: float,
    ledger: Ledger,
    did: Trained,
) -> None:
    """One step of one client by itself; it leaves ``attendance`` where it is dropped."""
    began, server = time.perf_counter(), federation.server
    try:
        loss = _local_step(federation, client, batch, attendance.number, step, factor, ledger)
        did.add(batch, loss, time.perf_counter() - began)
        late = attendance.passes_deadline(client, did, ledger, step)
        if server is not None and not late:
            server.accept()
    except NonFiniteError as error:
        if federation.config.training.on_nonfinite == "stop":
            raise
        attendance.drop(client, str(error).partition(";")[0])
    if server is not None and client not in attendance.present:
        server.reject()


def _shared_step(
    federation: Federation,
    batches: Mapping[str, Batch],
    number: int,
    step: int,
    factor: float,
    ledger: Ledger,
    done: Mapping[str, Trained],
) -> None:
    """One step of several clients in one pass; what takes time is shared out by tokens.

    Raises:
        NonFiniteError: nothing was stepped with it.
    """
    began, training, server = time.perf_counter(), federation.config.training, federation.server
    assert server is not None
    parties = [party for c in batches if isinstance(party := federation.clients[c], SplitClient)]
    together = ClientPass(parties)
    messages = together.forward(list(batches.values()), number, step)
    if training.server_update == "pooled" and training.labels == "server":
        answers = reply_to_all(server, parties, list(batches.values()), messages, ledger)
    else:
        answers = []
        for party, batch, up in zip(parties, batches.values(), messages, strict=True):
            answers.append(reply(server, party, batch, up, ledger))
            server.accept()
    together.backward([down for down, _ in answers])
    for party in parties:
        party.step(factor * training.client_optimizer.lr)
    seconds, tokens = time.perf_counter() - began, sum(batch.n_tokens for batch in batches.values())
    for (client, batch), (_, loss) in zip(batches.items(), answers, strict=True):
        done[client].add(batch, loss, seconds * batch.n_tokens / tokens)


def _local_step(
    federation: Federation, client: str, batch: Batch, number: int, step: int, factor: float, ledger: Ledger
) -> StepLoss:
    """One step of one client, the server's gradients not yet accepted."""
    party, training = federation.clients[client], federation.config.training
    if isinstance(party, UnsplitClient):
        return party.local_step(batch.inputs(), batch.labels, number, step, factor)
    assert federation.server is not None
    if not batch.features:  # a Poisson sample may be empty
        party.step_on_noise(number, step, factor * training.client_optimizer.lr)
        return StepLoss(0.0, 0)
    down, loss = exchange(federation.server, party, batch, number, step, ledger)
    party.apply_gradients(down.gradients, factor * training.client_optimizer.lr)
    return loss
