"""Local steps in the order in which their messages reach the server on the virtual clock (``training.asynchrony``).

A client's own computing depends on nobody's in between, so that a local step may be computed when its activations
arrive, wherever it is computed.
"""

from __future__ import annotations

from collections.abc import Callable

from atlas_cli.data.collate import Batch
from atlas_cli.engines.own_step import OnStep
from atlas_cli.engines.passes import begin_round
from atlas_cli.errors import during
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.batches import batch_of
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.local_work import LocalWork
from atlas_cli.federation.parties.optimizers import learning_rate_factor
from atlas_cli.federation.under_way import UnderWay
from atlas_cli.wire.ledger import Ledger

# one local step: of a client, with a batch, at (round, step), with a factor of learning rates, added to its work
Serve = Callable[[str, Batch, tuple[int, int], float, LocalWork], None]


def by_arrival(
    federation: Federation, under_way: UnderWay, attendance: Attendance, ledger: Ledger, on_step: OnStep, serve: Serve
) -> None:
    """Serve all clients that are under way until a buffer is full, or nobody is any more.

    Args:
        serve: takes one local step; it drops the client from ``attendance`` if it is lost.

    Raises:
        NonFiniteError: with ``training.on_nonfinite: stop``.
    """
    training, server = federation.config.training, federation.server
    server.real_tokens = False
    begin_round(federation, under_way.passes, attendance.number)
    while under_way.moving and not under_way.full():
        arrival = under_way.next()
        client, step = arrival.client, arrival.step
        found = under_way.passes[client]
        if step == training.local_steps:
            if too_stale := under_way.arrived(client):
                attendance.drop(client, too_stale, gone=False)
        elif attendance.crashes(client, step, found.number):
            under_way.stop(client, ledger)
        else:
            under_way.serve(arrival)
            overall = (found.number - 1) * training.local_steps + step
            factor, batch = learning_rate_factor(training, overall), batch_of(federation, client, overall)
            server.begin_step(step, factor * training.server_optimizer.lr)
            with during(f"client {client}, step {step}"), federation.at_hand([client]):
                serve(client, batch, (found.number, step), factor, found.did)
            on_step(step, {name: each.did for name, each in under_way.passes.items()})
        for lost in under_way.passes.keys() & attendance.dropped.keys():
            under_way.stop(lost, ledger)
