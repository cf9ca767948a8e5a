"""The local steps of a round whose clients compute elsewhere, one step or, by arrival, one client after another."""

from __future__ import annotations

from collections import Counter

from atlas_cli.data.collate import Batch
from atlas_cli.engines.by_arrival import by_arrival
from atlas_cli.engines.own_step import OnStep
from atlas_cli.engines.passes import begin_round, order_of, takes_step
from atlas_cli.engines.remote.host import Calls
from atlas_cli.engines.remote.remote_round import GRAPHS, RemoteRound
from atlas_cli.engines.remote.units import Unit, left_of, units_of
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.batches import batch_of
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.local_work import LocalWork
from atlas_cli.federation.parties.optimizers import learning_rate_factor
from atlas_cli.federation.under_way import UnderWay
from atlas_cli.planning.method import shares_gradients
from atlas_cli.wire.ledger import Ledger


def remote_steps(
    federation: Federation,
    calls: Calls,
    attendance: Attendance,
    ledger: Ledger,
    on_step: OnStep,
) -> dict[str, LocalWork]:
    """As ``in_process.local_steps``, with clients that compute elsewhere."""
    training, server, number = federation.config.training, federation.server, attendance.number
    steps = RemoteRound(federation, calls, attendance, ledger)
    steps.begin()
    if federation.under_way is not None:
        return _by_arrival(steps, federation.under_way, on_step)
    server.real_tokens = federation.plan.one_by_one is None
    begin_round(federation, steps.done, number)
    upcoming: list[Unit] | None = None
    for step in range(training.local_steps):
        overall = (number - 1) * training.local_steps + step
        left = [c for c in order_of(federation, attendance.present, overall) if not attendance.crashes(c, step)]
        left = [client for client in left if takes_step(federation, client, step)]
        if not federation.split:
            batches = {client: batch_of(federation, client, overall) for client in left}
            steps.unsplit_step(step, left, batches)
        else:
            factor = learning_rate_factor(training, overall)
            server.begin_step(step, factor * training.server_optimizer.lr)
            units = left_of(upcoming, left) if upcoming is not None else _units_at(federation, calls, attendance, step)
            upcoming = _units_at(federation, calls, attendance, step + 1)
            steps.split_step(units, left, upcoming)
        if step == 0 and shares_gradients(federation.config):
            steps.share_first_step(left)
        if federation.split:
            server.finish_step()
        on_step(step, steps.done)
    steps.end()
    return steps.done


def _units_at(federation: Federation, calls: Calls, attendance: Attendance, step: int) -> list[Unit]:
    """The units of a step of the round, of who is present now and will be; none after the last step."""
    training, number = federation.config.training, attendance.number
    if step == training.local_steps:
        return []
    order = order_of(federation, attendance.present, (number - 1) * training.local_steps + step)
    takes = [c for c in order if takes_step(federation, c, step) and not attendance.will_crash(c, step)]
    return units_of(federation, takes, (number, step), calls.place)


def _by_arrival(steps: RemoteRound, under_way: UnderWay, on_step: OnStep) -> dict[str, LocalWork]:
    """The same in the order of the virtual clock; what a client computes next, it computes while others are served."""
    steps.done = {client: under_way.passes[client].did for client in steps.attendance.present}
    place, near = steps.calls.place, Counter(map(steps.calls.place, steps.attendance.present))

    def serve(client: str, batch: Batch, when: tuple[int, int], factor: float, did: LocalWork) -> None:
        at, (number, step) = place(client), when
        unit = steps.unit_under_way(client, when) or Unit(at, when, {client: batch}, shared=False)
        upcoming = []
        if near[at] <= GRAPHS and takes_step(steps.federation, client, step + 1):
            upcoming = units_of(steps.federation, [client], (number, step + 1), place)
        steps.split_step([unit], [client], upcoming)

    by_arrival(steps.federation, under_way, steps.attendance, steps.ledger, on_step, serve)
    steps.end()
    for client in under_way.passes.keys() & steps.attendance.dropped.keys():
        under_way.stop(client, steps.ledger)
    return steps.attendance.arrived(under_way.end_round())
