"""Clients that train at the pace of their devices (``training.asynchrony``): who is under way, and since when."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

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
    """The local steps of a client from one delivery to its next update.

    Attributes:
        number: the round in which it began, which its batches, its noise and its learning rates are those of.
        began: the virtual time at which it began.
        version: of the group's adapter that it began from.
        did: its work so far.
    """

    number: int
    began: float
    version: int
    did: LocalWork = field(default_factory=LocalWork)


class UnderWay:
    """The clients under way, and the virtual clock that orders their messages.

    Args:
        work_of: the work of a client in a pass that begins in a round: all times follow from it, before anything is
            computed.

    Attributes:
        passes: by client, in the order in which they began.
        earlier: the versions that they began from, which the aggregator merges by, too.
        merged: the virtual time of the last merge.
    """

    def __init__(
        self, config: ExperimentConfig, aggregator: Aggregator, work_of: Callable[[str, int], ClientWork]
    ) -> None:
        self._config, self._aggregator, self._work_of = config, aggregator, work_of
        rule = config.training.asynchrony
        assert rule is not None, "only with training.asynchrony"
        self.earlier = aggregator.earlier = EarlierVersions(rule, aggregator.members, aggregator.groups)
        self.passes: dict[str, Pass] = {}
        self.merged = 0.0
        self._works: dict[str, ClientWork] = {}
        self._places = {name: place for place, name in enumerate(aggregator.members)}
        self._arrivals = self._clock()

    def _clock(self, **times: float) -> Arrivals:
        one_queue = self._config.training.server_update == "sequential"
        return Arrivals(server_device(self._config), one_queue=one_queue, **times)

    def idle(self) -> list[str]:
        """The clients that can start, in the order of the config."""
        return [client for client in self._places if not self.trains(client)]

    def trains(self, client: str) -> bool:
        """Whether a client is under way; one that was delivered a newer version meanwhile is not."""
        found = self.passes.get(client)
        return found is not None and found.version == self._aggregator.members[client].version

    def cancel(self, client: str) -> None:
        """Forget a client's pass, if it is under way."""
        if self.passes.pop(client, None) is not None:
            self._arrivals.stop(client)

    def begin(self, client: str, number: int) -> None:
        """A client starts, in a round, from what it was delivered."""
        self.cancel(client)
        self.passes[client] = Pass(number, self._arrivals.now, self._aggregator.members[client].version)
        self._works[client] = self._work_of(client, number)
        self._arrivals.start(self._places[client], self._works[client])

    def next(self) -> Arrival:
        """The next message that reaches the server."""
        return self._arrivals.next()

    def end(self, client: str) -> tuple[Pass, ClientWork, float]:
        """A client's update has come: what it did, the work of which its times are, and when it came."""
        return self.passes.pop(client), self._works.pop(client), self._arrivals.now

    def merge(self, ended: Mapping[str, tuple[Pass, ClientWork, float]]) -> RoundTime:
        """The updates of some clients are merged now: the time since the merge before, and where theirs went."""
        now, server = self._arrivals.now, self._arrivals.server
        seconds, self.merged = now - self.merged, now
        clients: dict[str, ClientTime] = {}
        for client, (done, work, came) in ended.items():
            clients[client] = client_time(work, server, now - done.began, came - done.began)
        joules = [time.joules for time in clients.values()]
        return RoundTime(seconds, clients, None if None in joules else sum(j for j in joules if j is not None))

    def state_dict(self) -> StateDict:
        """``clock``: now, when the server is free, the last merge; ``passes``: by client, its pass and next message.

        ``earlier/...`` are the versions that they began from.
        """
        waiting = {arrival.client: arrival for arrival in self._arrivals.waiting()}
        passes = {
            client: {**asdict(found), "at": waiting[client].at, "step": waiting[client].step}
            for client, found in self.passes.items()
            if self.trains(client)
        }
        clock = [self._arrivals.now, self._arrivals.free, self.merged]
        return {"clock": clock, "passes": passes, **with_prefix("earlier/", self.earlier.state_dict())}

    def load_state_dict(self, state: StateDict) -> None:
        """Go on from a state, once clients and groups are restored.

        Raises:
            StateError: an invalid time, pass or client.
        """
        tensors, values = tensors_and_values(state, ["clock", "passes"])
        earlier = pop_prefix("earlier/", tensors)
        copy_into({}, tensors)
        heads = {each.group: self._aggregator.head_of(client) for client, each in self._aggregator.members.items()}
        with fields_of("earlier"):
            self.earlier.load_state_dict(earlier, heads)
        clock, passes = values["clock"], values["passes"]
        require_value(isinstance(clock, list) and len(clock) == 3 and all(map(_is_time, clock)), "clock", "is no times")
        require_value(isinstance(passes, Mapping), "passes", "is no mapping")
        self.merged, self._arrivals = clock[2], self._clock(now=clock[0], free=clock[1])
        self.passes, self._works = {}, {}
        for client, found in passes.items():
            where = f"passes.{client}"
            require_value(client in self._places, where, "is of no client")
            at, step, self.passes[client] = self._checked(found, where)
            self._works[client] = self._work_of(client, self.passes[client].number)
            self._arrivals.expect(Arrival(at, self._places[client], client, step), self._works[client])

    def _checked(self, found: Any, where: str) -> tuple[float, int, Pass]:
        names = {"at", "step", *(each.name for each in fields(Pass))}
        require_value(isinstance(found, Mapping) and found.keys() == names, where, f"is not {', '.join(sorted(names))}")
        steps = self._config.training.local_steps
        require_value(_is_time(found["at"]) and _is_time(found["began"]), where, "has an invalid time")
        whole = all(is_count(found[name]) for name in ("step", "number", "version"))
        require_value(whole and found["step"] <= steps and found["number"] > 0, where, "has an invalid number")
        did, counts = found["did"], ("steps", "examples", "tokens", "labels")
        known = isinstance(did, Mapping) and did.keys() == {each.name for each in fields(LocalWork)}
        require_value(known and all(is_count(did[name]) for name in counts), f"{where}.did", "is no work of a client")
        require_value(_is_time(did["seconds"]) and _is_number(did["loss_sum"]), f"{where}.did", "has an invalid sum")
        pairs = {name: _pairs(did[name], f"{where}.did.{name}") for name in ("shapes", "computed")}
        work = LocalWork(**{**did, **pairs})
        return found["at"], found["step"], Pass(found["number"], found["began"], found["version"], work)


def _pairs(found: Any, where: str) -> list[tuple[int, int]]:
    pairs = isinstance(found, list) and all(isinstance(each, list) and len(each) == 2 for each in found)
    require_value(pairs and all(is_count(n) for each in found for n in each), where, "are no shapes")
    return [(rows, tokens) for rows, tokens in found]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_time(value: Any) -> bool:
    return _is_number(value) and value >= 0
