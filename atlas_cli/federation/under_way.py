"""Clients that train at the pace of their devices (``training.asynchrony``): who is under way, and since when."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

from atlas_cli.aggregation.contract import release, scales_of, truncated
from atlas_cli.config.cohorts import cohort_size
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.federation.local_work import LocalWork
from atlas_cli.federation.merging.aggregator import Aggregator
from atlas_cli.federation.merging.earlier_versions import EarlierVersions
from atlas_cli.planning.devices.arrivals import Arrival, Arrivals
from atlas_cli.planning.devices.clock import ClientTime, ClientWork, RoundTime, client_time
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


@dataclass
class Pass:
    """The local steps of a client from one delivery to the merge of its update.

    Attributes:
        number: the round in which it began, which its batches, its noise and its learning rates are those of.
        began: the virtual time at which it began.
        came: the virtual time at which its update came, which waits for the merge since then; None: it is computing.
        did: its work so far.
    """

    number: int
    began: float
    came: float | None = None
    did: LocalWork = field(default_factory=LocalWork)


class Ended(NamedTuple):
    """What came to its end in a round, which lasts from one merge to the next.

    Attributes:
        merged: the clients whose updates are merged in it.
        works: the work of these clients, and of those that were dropped.
        staleness: by client whose update is merged or too stale, how often its group was merged since it started.
        factors: what the changes of late clients are multiplied by.
        time: since the merge before, and where the time of the clients that are merged went.
    """

    merged: Collection[str]
    works: Mapping[str, LocalWork]
    staleness: Mapping[str, int]
    factors: Mapping[str, float]
    time: RoundTime


class UnderWay:
    """The clients under way, the virtual clock that orders their messages, and the buffers of their updates.

    Args:
        work_of: the work of a client in a pass that begins in a round, and whether a delivery comes before it: all
            times follow from it, before anything is computed.

    Attributes:
        passes: by client, in the order in which they began.
        earlier: the versions that they began from, which the aggregator merges by, too.
    """

    def __init__(
        self, config: ExperimentConfig, aggregator: Aggregator, work_of: Callable[[str, int, bool], ClientWork]
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
        self._merged = 0.0
        self._works: dict[str, ClientWork] = {}
        self._stopped: dict[str, LocalWork] = {}
        self._stale: dict[str, int] = {}
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

    def begin(self, client: str, number: int) -> None:
        """A client starts, in a round, from what it was delivered."""
        self.passes[client] = Pass(number, self._arrivals.now)
        self._works[client] = self._work(client, number)
        self._arrivals.start(self._places[client], self._works[client])

    def _work(self, client: str, number: int) -> ClientWork:
        return self._work_of(client, number, self._aggregator.members[client].version > 0)  # set-up takes no time

    def next(self) -> Arrival:
        """The next message that reaches the server."""
        return self._arrivals.next()

    def arrived(self, client: str) -> str | None:
        """A client's update has come now, and waits for its merge; why not, if it is too stale."""
        self.passes[client].came = self._arrivals.now
        stale, most = self.earlier.staleness(client), self.earlier.rule.max_staleness
        if most is None or stale <= most:
            return None
        self._stale[client] = stale
        return f"staleness {stale} is more than {most}"

    def stop(self, client: str) -> None:
        """A client is no longer under way, and its update will not be merged."""
        self._stopped[client] = self.passes.pop(client).did
        del self._works[client]
        self._arrivals.stop(client)

    def full(self) -> list[str]:
        """The groups of which as many updates have come as are merged at a time."""
        waiting = Counter(self._group(client) for client, found in self.passes.items() if found.came is not None)
        return [group for group, most in self._most.items() if waiting[group] == most]

    def end_round(self) -> Ended:
        """Take out the updates of groups whose buffer is full; with nobody computing any more, all that have come."""
        groups, now, server = (
            self.full() if self.moving else list(self._most),
            self._arrivals.now,
            self._arrivals.server,
        )
        ended = {c: each for c, each in self.passes.items() if each.came is not None and self._group(c) in groups}
        times: dict[str, ClientTime] = {}
        for client, found in ended.items():
            del self.passes[client]
            assert found.came is not None, "its update has come"
            times[client] = client_time(self._works.pop(client), server, now - found.began, found.came - found.began)
        staleness = {client: self.earlier.staleness(client) for client in ended} | self._stale
        factors = {c: late.factor for c in ended if (late := self.earlier.late(c)) is not None}
        works = {client: found.did for client, found in ended.items()} | self._stopped
        seconds, self._merged = now - self._merged, now
        self._stopped, self._stale = {}, {}
        joules = [time.joules for time in times.values()]
        whole = None if None in joules else sum(j for j in joules if j is not None)
        return Ended(ended.keys(), works, staleness, factors, RoundTime(seconds, times, whole))

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
        """``clock``: now, when the server is free, the last merge; ``passes``: by client, its pass and next message.

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
        clock = [self._arrivals.now, self._arrivals.free, self._merged]
        return {"clock": clock, "passes": passes, **with_prefix("earlier/", self.earlier.state_dict())}

    def load_state_dict(self, state: StateDict) -> None:
        """Go on from a state, once clients and groups are restored.

        Raises:
            StateError: an invalid time, pass or client.
        """
        tensors, values = tensors_and_values(state, ["clock", "passes"])
        earlier = pop_prefix("earlier/", tensors)
        copy_into({}, tensors)
        with fields_of("earlier"):
            self.earlier.load_state_dict(earlier)
        clock, passes = values["clock"], values["passes"]
        require_value(isinstance(clock, list) and len(clock) == 3 and all(map(_is_time, clock)), "clock", "is no times")
        require_value(isinstance(passes, Mapping), "passes", "is no mapping")
        self._merged, self._arrivals = clock[2], self._clock(now=clock[0], free=clock[1])
        self.passes.clear()
        self._works = {}
        for client, found in passes.items():
            where = f"passes.{client}"
            require_value(client in self._places, where, "is of no client")
            at, step, self.passes[client] = self._checked(found, where)
            self._works[client] = self._work(client, self.passes[client].number)
            if self.passes[client].came is None:
                self._arrivals.expect(Arrival(at, self._places[client], client, step), self._works[client])

    def _checked(self, found: Any, where: str) -> tuple[float, int, Pass]:
        names = {"at", "step", *(each.name for each in fields(Pass))}
        require_value(isinstance(found, Mapping) and found.keys() == names, where, f"is not {', '.join(sorted(names))}")
        steps = self._config.training.local_steps
        came = found["came"]
        times = [found["at"], found["began"], *([] if came is None else [came])]
        require_value(all(map(_is_time, times)), where, "has an invalid time")
        whole = all(is_count(found[name]) for name in ("step", "number"))
        require_value(whole and found["step"] <= steps and found["number"] > 0, where, "has an invalid number")
        did, counts = found["did"], ("steps", "examples", "tokens", "labels")
        known = isinstance(did, Mapping) and did.keys() == {each.name for each in fields(LocalWork)}
        require_value(known and all(is_count(did[name]) for name in counts), f"{where}.did", "is no work of a client")
        require_value(_is_time(did["seconds"]) and _is_number(did["loss_sum"]), f"{where}.did", "has an invalid sum")
        pairs = {name: _pairs(did[name], f"{where}.did.{name}") for name in ("shapes", "computed")}
        work = LocalWork(**{**did, **pairs})
        return found["at"], found["step"], Pass(found["number"], found["began"], came, work)


def _pairs(found: Any, where: str) -> list[tuple[int, int]]:
    pairs = isinstance(found, list) and all(isinstance(each, list) and len(each) == 2 for each in found)
    require_value(pairs and all(is_count(n) for each in found for n in each), where, "are no shapes")
    return [(rows, tokens) for rows, tokens in found]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_time(value: Any) -> bool:
    return _is_number(value) and value >= 0
