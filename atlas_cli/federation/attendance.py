"""Which clients of a round's cohort are still in it, and why the others are not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from atlas_cli.aggregation.checks import require_unchanged_by
from atlas_cli.aggregation.client_gradients import factors_of
from atlas_cli.errors import TooFewClientsError, during
from atlas_cli.federation.client_state.state import ClientState
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.local_work import LocalWork
from atlas_cli.federation.round_time import OwnTime
from atlas_cli.federation.under_way import Ended
from atlas_cli.planning.cohort import answers, crashes
from atlas_cli.units import parse_time
from atlas_cli.wire.ledger import Ledger


class Attendance:
    """The clients of one round; a client that never answers is dropped before the round begins.

    Args:
        cohort: the clients of the round, in the order of the config.
        number: the number of the round, from 1.

    Attributes:
        present: clients still in the round, in the order of the config.
        dropped: by client, why it was dropped.
        gone: dropped clients to which nothing can be delivered.
        late: dropped clients whose last step came after the deadline.
        waited: virtual seconds that the server waited for late clients: the deadline, or 0.
        idle: virtual seconds before the round in which too few clients could be reached.
        began_with: by client, the ranks of its adapters when the round began.
        ended: what came in the round, where it is not that of a cohort (``training.asynchrony``).
        called_off: the work of clients that were still under way when training ended.
    """

    def __init__(self, federation: Federation, cohort: list[str], number: int) -> None:
        self.federation, self.number = federation, number
        config = federation.config
        self.cohort = list(cohort)
        self.present = [c for c in cohort if answers(config, c, number)]
        self.dropped = {c: "never answered" for c in cohort if c not in self.present}
        self.idle = self._reach()
        self.gone, self.late = set(self.dropped), set[str]()
        self.waited = 0.0
        self.began_with: dict[str, dict[str, int]] = {}
        self.ended: Ended | None = None
        self.called_off: dict[str, LocalWork] = {}
        self._behind = {client for client in self.present if federation.aggregator.is_behind(client)}
        self._deadline = None if config.training.deadline is None else parse_time(config.training.deadline)
        self._time = OwnTime(federation, cohort) if self._deadline is not None else None
        self._before: dict[str, ClientState] = {}

    def _reach(self) -> float:
        """Wait until enough clients can be reached, and drop those that cannot be; return the seconds of it."""
        if (clock := self.federation.clock) is None:
            return 0.0
        least, under_way = self.federation.config.training.min_clients, self.federation.under_way
        if under_way is not None:
            clock.now, least = under_way.now, 0 if under_way.passes else 1
        idle = clock.wait_for(self.present, least)
        if under_way is not None:
            under_way.wait_until(clock.now)
        away = [client for client in self.present if not clock.reachable(client)]
        self.dropped |= {client: f"cannot be reached at {clock.now:.6g} s" for client in away}
        self.present = [client for client in self.present if client not in away]
        return idle

    def begin(self) -> None:
        """Begin the round: record the ranks of each client, and copy the state of clients that may be dropped later.

        The aggregation method's terms at the clients begin their round, too.
        """
        aggregator = self.federation.aggregator
        members = aggregator.members
        for client in self.present:
            self.federation.clients[client].train_only(aggregator.parts(client).trained)
            if (coding := members[client].coding) is not None:
                coding.begin(members[client].exchanged())
        self.began_with = {c: members[c].ranks for c in self.present}
        under_way = self.federation.under_way
        if under_way is None:
            failing = crashes(self.federation.config, self.federation.client_plans(self.present), self.number)
            exposed = self.present if may_drop(self.federation, self.present) else failing
            self._before = {c: ClientState.of(self.federation.clients[c], members[c]).copy() for c in exposed}
        for client in self.present:
            if (term := members[client].term) is not None:
                with during(f"client {client}"):
                    term.begin_round(factors_of(members[client].adapters))
                    unchanged = members[client].exchanged_sha256() == members[client].delivered_sha256
                    require_unchanged_by(term, unchanged)
        if under_way is not None:
            under_way.begin_round()
            for client in self.present:
                under_way.begin(client, self.number, delivered=client in self._behind)
            self.present = self.federation.in_order(under_way.training)

    def arrived(self, ended: Ended) -> dict[str, LocalWork]:
        """The round is that of the clients whose updates are merged in it, whenever they started (``asynchrony``).

        Returns:
            The work of these clients, and of those that were dropped.
        """
        members, in_order = self.federation.aggregator.members, self.federation.in_order
        self.ended, self.present = ended, in_order(ended.merged)
        self.began_with = {client: members[client].ranks for client in self.present}
        self.cohort = in_order([*self.present, *self.dropped])
        return {client: ended.works[client] for client in in_order(ended.works)}

    def lateness(self) -> tuple[Mapping[str, float], Collection[str]]:
        """What the changes of late clients are multiplied by, and the clients that go on in the next round."""
        under_way = self.federation.under_way
        return ({}, ()) if self.ended is None or under_way is None else (self.ended.factors, under_way.passes)

    def call_off(self, ledger: Ledger) -> None:
        """Training ends: clients still under way are dropped, and hold again what they were delivered."""
        if (under_way := self.federation.under_way) is None:
            return
        for client in list(under_way.passes):
            self.dropped[client] = under_way.progress(client)
            self.called_off[client] = under_way.stop(client, ledger)
            self.federation.give_back(client)
        self.cohort = self.federation.in_order([*self.present, *self.dropped])

    def drop(self, client: str, reason: str, *, gone: bool = True) -> None:
        """Drop a client from the round and restore its state from the beginning of the round, or of its pass.

        Args:
            gone: False for a client that is still there, so that it gets what is delivered after the round.
        """
        self.present.remove(client)
        self.dropped[client] = reason
        if gone:
            self.gone.add(client)
        if self.federation.under_way is not None:
            self.federation.give_back(client)
        elif client in self._before:
            self._before[client].load(self.federation.clients[client], self.federation.aggregator.members[client])

    def crashes(self, client: str, step: int, began: int | None = None) -> bool:
        """Drop a client that fails before this step (from 0) of the round, or of its pass that ``began`` in another."""
        if not self.will_crash(client, step, began):
            return False
        self.drop(client, failed_before(step))
        return True

    def will_crash(self, client: str, step: int, began: int | None = None) -> bool:
        """Whether a client fails before this step, as ``crashes``; nothing is dropped."""
        plans = self.federation.client_plans([client])
        return crashes(self.federation.config, plans, began or self.number).get(client) == step

    def passes_deadline(self, client: str, did: LocalWork, ledger: Ledger, step: int | None = None) -> bool:
        """Drop a client whose own computing and transfers so far took longer than the deadline.

        Args:
            step: the step that came too late; None for the upload after the last step.
        """
        if self._deadline is None or self._time is None:
            return False
        seconds = self._time.seconds(client, did, ledger)
        if seconds <= self._deadline:
            return False
        self.waited = self._deadline
        if step is not None:
            self.late.add(client)
        when = "in its upload" if step is None else f"in step {step}"
        self.drop(client, f"deadline of {self.federation.config.training.deadline} passed {when} ({seconds:.3g} s)")
        return True

    def remaining(self, group: str) -> list[str]:
        """Clients of a group (or cluster) that are still in the round."""
        return [c for c in self.present if self.federation.aggregator.members[c].group == group]

    def require_enough(self) -> None:
        """Stop if fewer than ``training.min_clients`` are left; the round then does not count as done.

        Raises:
            TooFewClientsError: names the dropped clients, and what would let the others go on.
        """
        least = self.federation.config.training.min_clients
        if len(self.present) >= least:
            return
        why = "; ".join(f"{client}: {reason}" for client, reason in list(self.dropped.items())[:5])
        more = f"; {len(self.dropped) - 5} more" if len(self.dropped) > 5 else ""
        then = "faults of the config come again in this round"
        if self.present:
            then = f"add training.min_clients={len(self.present)} to go on with those that are left"
        raise TooFewClientsError(
            f"round {self.number}: {len(self.present)} of {len(self.cohort)} clients left, and training.min_clients is "
            f"{least} ({why}{more}); {then}"
        )


def failed_before(step: int) -> str:
    """Why a client that crashed is dropped."""
    return f"failed before step {step}"


def may_drop(federation: Federation, clients: Iterable[str]) -> bool:
    """Whether the config allows clients to be dropped after a round has begun."""
    config, training = federation.config, federation.config.training
    return (
        training.deadline is not None
        or training.on_nonfinite == "drop-client"
        or config.screen.max_norm_ratio is not None
        or any(not federation.aggregator.members[client].weight > 0 for client in clients)
    )
