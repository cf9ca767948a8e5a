"""All parties in one process: messages are passed by reference, and counted as if serialised.

Few passes of clients are served at a time, so that only their graphs are alive; the result is that of serving all at
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain, groupby

from atlas_cli.engines.by_arrival import by_arrival
from atlas_cli.engines.own_step import OnStep, own_step
from atlas_cli.engines.passes import begin_round, order_of, passes, takes_step
from atlas_cli.engines.shared_steps import SharedSteps
from atlas_cli.errors import during
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.batches import batch_of
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.local_work import LocalWork
from atlas_cli.federation.merging.mean_gradients import share_first_gradients
from atlas_cli.federation.parties.optimizers import learning_rate_factor
from atlas_cli.planning.method import shares_gradients
from atlas_cli.wire.ledger import Ledger


def local_steps(
    federation: Federation, attendance: Attendance, ledger: Ledger, on_step: OnStep
) -> dict[str, LocalWork]:
    """Run the local steps of a round for the clients present; dropped clients leave ``attendance``.

    Args:
        on_step: called after each step with its number from 0, and the work of each client so far.

    Returns:
        The work of every client that began the round, of dropped ones until they were dropped.

    Raises:
        NonFiniteError: with ``training.on_nonfinite: stop``, or if no single client caused it.
    """
    if federation.under_way is not None:
        own = partial(own_step, federation, attendance, ledger)
        by_arrival(federation, federation.under_way, attendance, ledger, on_step, own)
        return attendance.arrived(federation.under_way.end_round())
    training, server, number = federation.config.training, federation.server, attendance.number
    done = {client: LocalWork() for client in attendance.present}
    server.real_tokens = federation.plan.one_by_one is None
    begin_round(federation, done, number)
    with SharedSteps(federation, number) as shared_steps:
        for step in range(training.local_steps):
            overall = (number - 1) * training.local_steps + step
            factor = learning_rate_factor(training, overall)
            server.begin_step(step, factor * training.server_optimizer.lr)
            left = [c for c in order_of(federation, attendance.present, overall) if not attendance.crashes(c, step)]
            left = [client for client in left if takes_step(federation, client, step)]
            batches = {client: batch_of(federation, client, overall) for client in left}
            found = passes(federation, batches, at_once=shared_steps.at_once)
            for shared, same in groupby(found, key=lambda each: each.shared):
                if shared:
                    together = [{client: batches[client] for client in each.clients} for each in same]
                    shared_steps.take(together, step, factor, ledger, done)
                    continue
                for client in chain.from_iterable(each.clients for each in same):
                    when = number, step
                    with during(f"client {client}, step {step}"):
                        own_step(federation, attendance, ledger, client, batches[client], when, factor, done[client])
            if step == 0 and shares_gradients(federation.config):
                share_first_step(federation, [client for client in left if client in attendance.present], ledger)
            server.finish_step()
            on_step(step, done)
    return done


def share_first_step(federation: Federation, clients: Sequence[str], ledger: Ledger) -> None:
    """Let clients take the first local step of a round, with the mean of their gradients."""
    controls = {client: federation.clients[client].control for client in clients}
    first = {client: control.first_gradients() for client, control in controls.items() if control is not None}
    for client, mean in share_first_gradients(federation.aggregator, first, ledger).items():
        with during(f"client {client}, step 0"):
            federation.clients[client].take_mean(mean)
