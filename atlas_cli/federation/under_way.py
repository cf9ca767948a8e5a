"""Clients that train at the pace of their devices (``training.asynchrony``): who is under way, and since when."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from atlas_cli.aggregation.contract import release, scales_of, truncated
from atlas_cli.config.cohorts import cohort_size
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.federation.local_work import LocalWork
from atlas_cli.federation.merging.aggregator import Aggregator
from atlas_cli.federation.merging.earlier_versions import EarlierVersions
from atlas_cli.planning.devices.arrivals import Arrival, Arrivals
from atlas_cli.planning.devices.clock import (
    ClientTime,
    ClientWork,
    RoundTime,
    Transfers,
    client_time,
    time_so_far,
    with_delivery,
)
from atlas_cli.planning.devices.devices import server_device
from atlas_cli.storage.state_dict import (
    StateDict,
    copy_into,
    fields_of,
    is_count,
    pop_prefix,
    require_value,
    tensors_and_values,
    with_prefix,
)
from atlas_cli.wire.ledger import Ledger


@dataclass
class Pass:
    """The local steps of a client from one delivery to the next, which is after the merge of its update.

    Attributes:
        number: the round in which it began, which its batches, its noise and its learning rates are those of.
        began: the virtual time at which it began.
        delivered: whether it began with a delivery, since its client missed the last merge of its group.
        came: the virtual time at which its update came, which waits for the merge since then; None: it is computing.
        did: its work so far.
        took: what its transfers took and take, to its next message, if its device has a trace.
    """

    number: int
    began: float
    delivered: bool
    came: float | None = None
    did: LocalWork = field(default_factory=LocalWork)
    took: Transfers | None = None


@dataclass
class Ended:
    """What comes to its end in a round, which lasts until those that are merged in it hold what was merged.

    Attributes:
        works: the work of clients whose updates are merged in it, and of those that were dropped.
        staleness: by client whose update is merged or too stale, how often its group was merged since it started.
        factors: what the changes of late clients are multiplied by.
        merged: the clients whose updates are merged in it.
        seconds: since the round before ended.
        times: where the time of all these clients went since they started.
    """

    works: dict[str, LocalWork] = field(default_factory=dict)
    staleness: dict[str, int] = field(default_factory=dict)
    factors: dict[str, float] = field(default_factory=dict)
    merged: Collection[str] = ()
    seconds: float = 0.0
    times: dict[str, ClientTime] = field(default_factory=dict)

    @property
    def time(self) -> RoundTime:
        """The round on the virtual clock."""
        joules = [time.joules for time in self.times.values()]
        whole = None if None in joules else sum(j for j in joules if j is not None)
        return RoundTime(self.seconds, self.times, whole)


class UnderWay:
    """The clients under way, the virtual clock that orders their messages, and the buffers of their updates.

    Args:
        work_of: the work of a client in a pass that begins in a round: all times follow from it, before anything is
            computed.

    Attributes:
        passes: by client, in the order in which they began.
        earlier: the versions that they began from, which the aggregator merges by, too.
    """

    def __init__(
        self, config: ExperimentConfig, aggregator: Aggregator, work_of: Callable[[str, int], ClientWork]
    ) -> None:
        self._config, self._aggregator, self._work_of = config, aggregator, work_of
        rule = config.training.asynchrony
        assert rule is not None, "only with training.asynchrony"
        self.passes: dict[str, Pass] = {}
        self.earlier = aggregator.earlier = EarlierVersions(
            rule, aggregator.method, aggregator.members, aggregator.groups, aggregator.head_of, self.passes
        )
        sizes = Counter(member.group for member in aggregator.members.values())
        # a group of which fewer are under way at a time is merged when all of them have come
        self._most = {group: min(rule.buffer, cohort_size(config.training.cohort, n)) for group, n in sizes.items()}
        self._end = 0.0  # of the last round
        self._ready: dict[str, float] = {}  # when a client holds what it was last delivered
        self._works: dict[str, ClientWork] = {}
        self._deliveries: dict[str, ClientWork] = {}  # with one
        self._ended = Ended()
        self._places = {name: place for place, name in enumerate(aggregator.members)}
        self._arrivals = self._clock()

    def _clock(self, **times: float) -> Arrivals:
        one_queue = self._config.training.server_update == "sequential"
        return Arrivals(server_device(self._config), one_queue=one_queue, **times)

    @property
    def training(self) -> list[str]:
        """The clients that are computing."""
        return [client for client, found in self.passes.items() if found.came is None]

    @property
    def moving(self) -> bool:
        """Whether any client is computing."""
        return self._arrivals.any

    @property
    def now(self) -> float:
        """The virtual time."""
        return self._arrivals.now

    def wait_until(self, now: float) -> None:
        """Nothing happens until then."""
        self._arrivals.now = now

    def begin_round(self) -> None:
        """A round begins, in which nothing has ended."""
        self._ended = Ended()

    def begin(self, client: str, number: int, *, delivered: bool = False) -> None:
        """A client starts, in a round, as soon as it holds what it was delivered.

        Args:
            delivered: whether that is only sent to it now.
        """
        began = max(self._arrivals.now, self._ready.pop(client, 0.0))
        self.passes[client] = Pass(number, began, delivered)
        self._take_work(client)
        self.passes[client].took = took = Transfers() if self._works[client].device.traces is not None else None
        self._arrivals.start(self._places[client], self._works[client], began, took)

    def _take_work(self, client: str) -> None:
        found = self.passes[client]
        work = self._work_of(client, found.number)
        self._deliveries[client] = work
        self._works[client] = work if found.delivered else replace(work, adapter_bytes_down=0)

    def next(self) -> Arrival:
        """The next message that reaches the server."""
        return self._arrivals.next()

    def serve(self, arrival: Arrival) -> None:
        """The server takes the step of a message, and its client goes on."""
        self._arrivals.serve(arrival)

    def arrived(self, client: str) -> str | None:
        """A client's update has come now, and waits for its merge; why not, if it is too stale."""
        self.passes[client].came = self._arrivals.now
        stale, most = self.earlier.staleness(client), self.earlier.rule.max_staleness
        if most is None or stale <= most:
            return None
        self._ended.staleness[client] = stale
        return f"staleness {stale} is more than {most}"

    def stop(self, client: str, ledger: Ledger) -> LocalWork:
        """A client is no longer under way, and its update will not be merged; the round counts what it did."""
        now, server, work = self._arrivals.now, self._arrivals.server, self._works[client]
        coming = next((each for each in self._arrivals.waiting() if each.client == client), None)
        found = self.passes.pop(client)
        self._arrivals.stop(client)
        if found.came is not None:
            self._aggregator.receive(client, ledger)  # it was sent, though nobody merges it
            time = client_time(work, server, now - found.began, found.came - found.began, found.took)
        elif coming is not None:
            time = time_so_far(work, server, coming.step, coming.at - found.began, coming.at - now, found.took)
        else:  # it failed before the step of which the server would have a message now
            number = found.did.steps
            up = work.up(work.steps[number], server) if found.took is None else found.took.up[number]
            left = work.forward(work.steps[number]) + up
            time = time_so_far(work, server, number, now - found.began, left, found.took)
        self._ended.works[client], self._ended.times[client] = found.did, time
        return found.did

    def deliver(self, clients: Iterable[str], merged: Collection[str]) -> None:
        """Those of some clients that are behind and whose passes ended in the round are sent what came of it; it ends
        when ``merged`` hold it."""
        for client in clients:
            if client not in self._ended.times or not self._aggregator.is_behind(client):
                continue  # of who had no part in the round it has the bytes only
            seconds = self._deliveries[client].adapters_down(self._arrivals.server, self.now)
            self._ready[client] = held = self._arrivals.now + seconds
            self._ended.times[client] = with_delivery(self._ended.times[client], self._works[client].device, seconds)
            if client in merged and held > self._end:
                self._ended.seconds += held - self._end
                self._end = held

    def full(self) -> list[str]:
        """The groups of which as many updates have come as are merged at a time."""
        waiting = Counter(self._group(client) for client, found in self.passes.items() if found.came is not None)
        return [group for group, most in self._most.items() if waiting[group] == most]

    def end_round(self) -> Ended:
        """Take out the updates of groups whose buffer is full; with nobody computing any more, all that have come."""
        groups = self.full() if self.moving else list(self._most)
        ended, now, server = self._ended, self._arrivals.now, self._arrivals.server
        come = {c: each for c, each in self.passes.items() if each.came is not None and self._group(c) in groups}
        ended.merged = come.keys()
        for client, found in come.items():
            del self.passes[client]
            assert found.came is not None, "its update has come"
            spent = now - found.began, found.came - found.began
            ended.works[client] = found.did
            ended.times[client] = client_time(self._works[client], server, *spent, found.took)
            ended.staleness[client] = self.earlier.staleness(client)
            if (late := self.earlier.late(client)) is not None:
                ended.factors[client] = late.factor
        end = max(self._end, now)
        ended.seconds, self._end = end - self._end, end
        return ended

    def progress(self, client: str) -> str:
        """How far a client is, in words."""
        found, steps = self.passes[client], self._config.training.local_steps
        return "waits for a merge" if found.came is not None else f"under way, after {found.did.steps} of {steps} steps"

    def restore(self, client: str) -> None:
        """Let a client hold again what it was delivered.

        Raises:
            AtlasError: it then does not, by hash.
        """
        member, began = self._aggregator.members[client], self.earlier.began(client)
        adapters = truncated(began.adapters, member.ranks)
        member.adapters.load(release(adapters, scales_of(member.adapters)))
        if began.head:
            member.load_head(dict(began.head))
        self._aggregator.check_held(client)

    def _group(self, client: str) -> str:
        return self._aggregator.members[client].group

    def state_dict(self) -> StateDict:
        """``clock``: now, when the server is free, when the last round ended; ``passes``: by client, its pass and next
        message; ``ready``: by client, when it holds what it was delivered.

        ``earlier/...`` are the versions that they began from.
        """
        waiting = {arrival.client: arrival for arrival in self._arrivals.waiting()}
        passes = {}
        for client, found in self.passes.items():
            coming = waiting.get(client)
            at, step = (
                (coming.at, coming.step) if coming is not None else (found.came, self._config.training.local_steps)
            )
            passes[client] = {**asdict(found), "at": at, "step": step}
        clock = [self._arrivals.now, self._arrivals.free, self._end]
        earlier = with_prefix("earlier/", self.earlier.state_dict())
        return {"clock": clock, "passes": passes, "ready": dict(self._ready), **earlier}

    def load_state_dict(self, state: StateDict) -> None:
        """Go on from a state, once clients and groups are restored.

        Raises:
            StateError: an invalid time, pass or client.
        """
        tensors, values = tensors_and_values(state, ["clock", "passes", "ready"])
        earlier = pop_prefix("earlier/", tensors)
        copy_into({}, tensors)
        with fields_of("earlier"):
            self.earlier.load_state_dict(earlier)
        clock, passes, ready = values["clock"], values["passes"], values["ready"]
        require_value(isinstance(clock, list) and len(clock) == 3 and all(map(_is_time, clock)), "clock", "is no times")
        require_value(isinstance(passes, Mapping), "passes", "is no mapping")
        known = isinstance(ready, Mapping) and ready.keys() <= self._places.keys()
        require_value(known and all(map(_is_time, ready.values())), "ready", "are no times by client")
        self._end, self._arrivals, self._ready = clock[2], self._clock(now=clock[0], free=clock[1]), dict(ready)
        self.passes.clear()
        self._works = {}
        for client, found in passes.items():
            where = f"passes.{client}"
            require_value(client in self._places, where, "is of no client")
            at, step, self.passes[client] = own = self._checked(found, where)
            self._take_work(client)
            traced = self._works[client].device.traces is not None
            require_value((own[2].took is not None) == traced, f"{where}.took", "is not of its device")
            if self.passes[client].came is None:
                arrival = Arrival(at, self._places[client], client, step)
                self._arrivals.expect(arrival, self._works[client], self.passes[client].took)

    def _checked(self, found: Any, where: str) -> tuple[float, int, Pass]:
        names = {"at", "step", *(each.name for each in fields(Pass))}
        require_value(isinstance(found, Mapping) and found.keys() == names, where, f"is not {', '.join(sorted(names))}")
        steps = self._config.training.local_steps
        came = found["came"]
        times = [found["at"], found["began"], *([] if came is None else [came])]
        require_value(all(map(_is_time, times)), where, "has an invalid time")
        whole = all(is_count(found[name]) for name in ("step", "number"))
        whole = whole and type(found["delivered"]) is bool
        require_value(whole and found["step"] <= steps and found["number"] > 0, where, "has an invalid number")
        did, counts = found["did"], ("steps", "examples", "tokens", "labels")
        known = isinstance(did, Mapping) and did.keys() == {each.name for each in fields(LocalWork)}
        require_value(known and all(is_count(did[name]) for name in counts), f"{where}.did", "is no work of a client")
        require_value(_is_time(did["seconds"]) and _is_number(did["loss_sum"]), f"{where}.did", "has an invalid sum")
        shapes = _pairs(did["shapes"], f"{where}.did.shapes")
        require_value(did["alone"] == [None] * len(shapes), f"{where}.did.alone", "is not of a client of whole batches")
        work = LocalWork(**{**did, "shapes": shapes})
        took = _transfers(found["took"], found["step"], steps, f"{where}.took")
        pass_ = Pass(found["number"], found["began"], found["delivered"], came, work, took)
        return found["at"], found["step"], pass_


def _transfers(found: Any, step: int, steps: int, where: str) -> Transfers | None:
    """Those of a client up to the message of a step, and of the update after all."""
    if found is None:
        return None
    require_value(
        isinstance(found, Mapping) and found.keys() == {"up", "down", "adapters_up", "adapters_down"},
        where,
        "is no times",
    )
    lists = isinstance(found["up"], list) and isinstance(found["down"], list)
    known = lists and (len(found["up"]), len(found["down"])) == (min(step + 1, steps), step)
    require_value(known and all(map(_is_time, [*found["up"], *found["down"]])), where, "is not of its steps")
    require_value(_is_time(found["adapters_up"]) and _is_time(found["adapters_down"]), where, "has an invalid time")
    return Transfers(**found)


def _pairs(found: Any, where: str) -> list[tuple[int, int]]:
    pairs = isinstance(found, list) and all(isinstance(each, list) and len(each) == 2 for each in found)
    require_value(pairs and all(is_count(n) for each in found for n in each), where, "are no shapes")
    return [(rows, tokens) for rows, tokens in found]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_time(value: Any) -> bool:
    return _is_number(value) and value >= 0
