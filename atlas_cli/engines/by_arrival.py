"""Local steps in the order in which their messages reach the server on the virtual clock (``training.asynchrony``).

A client's own computing depends on nobody's in between, so that a local step is computed when its activations arrive.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from atlas_cli.engines.passes import begin_round
from atlas_cli.errors import during
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.batches import batch_of
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.local_work import LocalWork
from atlas_cli.federation.parties.optimizers import learning_rate_factor
from atlas_cli.federation.under_way import Pass, UnderWay
from atlas_cli.planning.devices.clock import ClientWork
from atlas_cli.wire.ledger import Ledger

OnStep = Callable[[int, dict[str, LocalWork]], None]


def by_arrival(
    federation: Federation, under_way: UnderWay, attendance: Attendance, ledger: Ledger, on_step: OnStep
) -> dict[str, LocalWork]:
    """Let the clients present start, and serve all that are under way until the buffer is full.

    With nobody under way any more what has come is merged, though it is less. ``attendance`` is then that of the
    clients whose updates have come; in the last round, those under way are dropped.

    Returns:
        The work of the clients whose updates have come, whenever they started.

    Raises:
        NonFiniteError: a loss, activation or gradient is not finite.
    """
    training, number = federation.config.training, attendance.number
    rule = under_way.earlier.rule
    for client in attendance.dropped:
        under_way.cancel(client)
    for client in attendance.present:
        under_way.begin(client, number)
    begin_round(federation, under_way.passes, number)
    ended: dict[str, tuple[Pass, ClientWork, float]] = {}
    staleness: dict[str, int] = {}
    dropped: dict[str, str] = {}
    while under_way.passes and len(ended) - len(dropped) < rule.buffer:
        arrival = under_way.next()
        client, step = arrival.client, arrival.step
        if step < training.local_steps:
            with during(f"client {client}, step {step}"), federation.at_hand([client]):
                _step(federation, under_way.passes[client], client, step, ledger)
            on_step(step, {name: each.did for name, each in under_way.passes.items()})
            continue
        ended[client], staleness[client] = under_way.end(client), under_way.earlier.staleness(client)
        if rule.max_staleness is not None and staleness[client] > rule.max_staleness:
            dropped[client] = f"staleness {staleness[client]} is more than {rule.max_staleness}"
    if number == training.rounds:
        dropped |= {
            c: f"under way, after {each.did.steps} of {training.local_steps} steps"
            for c, each in under_way.passes.items()
        }
    attendance.arrived(staleness, dropped, under_way.merge(ended))
    return {client: ended[client][0].did for client in federation.in_order(ended)}


def _step(federation: Federation, this: Pass, client: str, step: int, ledger: Ledger) -> None:
    """One local step of a client, which the server steps on at once."""
    began, training, server = time.perf_counter(), federation.config.training, federation.server
    overall = (this.number - 1) * training.local_steps + step
    factor, batch = learning_rate_factor(training, overall), batch_of(federation, client, overall)
    server.begin_step(step, factor * training.server_optimizer.lr)
    loss = federation.clients[client].local_step(batch, this.number, step, factor, server, ledger)
    server.accept()
    this.did.add(batch, loss, time.perf_counter() - began)
