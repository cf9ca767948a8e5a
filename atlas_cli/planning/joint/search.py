"""The search: every candidate of a space that none is better than, without looking at each.

Settings that all clients share are gone through. Among those of the kinds, peaks and times of a round are the largest
of any client, and joules, bytes, leakage and changes are sums. So settings of a kind that are no better in any
of these are left out, and those of two kinds together, and so on, before they are joined with the next kind's. Where
more than ``MOST`` are left, so are those that are a little better than another, so little that no candidate is left out
without one that is at most ``NEAR`` worse in each figure.

With a of a client for its forward and upload, s for the server's work on its batch, b for download and backward, e for
the upload of adapters, and n local steps of c = a + s + b, a group of pooled clients has sent its adapters after

    max(max(n c + e), max(a + s + (n - 2) c) + max(s + b + e))

each of these largest values that of another client: whoever is early waits at the last step for the slowest of the step
before. (To wait more than once takes no longer: a client whose a + s is so large that it pays to begin with it has the
larger c, too.) Clients that do not wait (``per-client``) have sent theirs after max(n c + e).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import NamedTuple

import numpy as np

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.planning.cuts.leakage import Leakage
from atlas_cli.planning.devices.clock import ClientWork
from atlas_cli.planning.devices.cost import compute_seconds
from atlas_cli.planning.devices.devices import Device, server_device
from atlas_cli.planning.joint.candidate import Candidate, Crew, Kind
from atlas_cli.planning.joint.costs import Costs, spec_of
from atlas_cli.planning.joint.figures import Figures, clock, peak_and_bytes
from atlas_cli.planning.joint.front import Rows, non_dominated, rounded
from atlas_cli.planning.joint.space import CUT, Option, Ranges, Shared, changes, consistent, shared_changes
from atlas_cli.planning.memory.step import ELEMENT, gets_gradient
from atlas_cli.planning.plan import Plan

SUMS = 5  # the last columns of a state: joules, bytes, kept bytes, exposed inputs, changes; others are largest values
MOST, NEAR = 2000, 0.01


class Found(NamedTuple):
    """A candidate with its figures."""

    candidate: Candidate
    figures: Figures


class Times(NamedTuple):
    """What decides when a task group is done, each the largest of its clients.

    Attributes:
        alone: until a client that never waits has sent its adapters.
        before: until the server is done with a client's last step but one; ``after``: from there until its adapters are
            sent, if it need not wait for its own.
        delivered: the delivery of adapters.
    """

    alone: float
    before: float
    after: float
    delivered: float


NO_TIME = Times(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class TooLarge:
    """The least memory that a party needs with any settings, and what its device has.

    Attributes:
        party: an entry of the config, or "the server"; ``settings``: those that need it.
    """

    party: str
    device: str
    needs: int
    has: int
    settings: Option


class Search:
    """A search over the settings of a plan's clients.

    Args:
        config: what the user has, from which changes are counted.
        costs: of clients with any settings; ``kinds``: who shares a choice.
        leakage: by layer; cuts that were not measured are left out.

    Attributes:
        exact: whether, after a search, nothing was left out for what is a little better than another.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        costs: Costs,
        kinds: Sequence[Kind],
        ranges: Ranges,
        leakage: Leakage | None = None,
    ) -> None:
        self.costs, self.kinds, self.ranges, self.leakage = costs, tuple(kinds), ranges, leakage
        self.config = config
        self.server: Device = server_device(self.config)
        self.groups = costs.plan.group_names
        self.exact = True
        self._order = list(_order(costs.plan, self.kinds))
        self._least: dict[str, TooLarge] = {}
        cuts = ranges.cuts_of(config, costs.plan.n_layers)
        measured = cuts if leakage is None else [cut for cut in cuts if cut in leakage.layers]
        self.shared = list(ranges.shared(config, measured))
        self._room = self.server.memory if config.server.device is not None else None

    @property
    def size(self) -> int:
        """The number of candidates."""
        return sum(prod(len(self._options(kind, shared)) for kind in self.kinds) for shared in self.shared)

    def front(self) -> list[Found]:
        """The candidates that fit all devices and that none is better than, of equals one; those of the least memory
        first."""
        found = [each for shared in self.shared for each in self._of(shared)]
        if not found:
            return []
        kept = non_dominated(rounded(np.array([each.figures.costs() for each in found], dtype=float)))
        return sorted((found[place] for place in kept), key=lambda each: each.figures.costs())

    def too_large(self) -> list[TooLarge]:
        """The parties that fit their devices with no settings, after a search."""
        return [least for least in self._least.values() if least.needs > least.has]

    def figures(self, candidate: Candidate) -> Figures:
        """The figures of a candidate."""
        pairs = [
            (crew, option) for kind, option in zip(self.kinds, candidate.options, strict=True) for crew in kind.crews
        ]
        costs = {crew: self.costs.of(crew, option, candidate.shared) for crew, option in pairs}
        memory, up, down = peak_and_bytes(costs)
        seconds, joules = clock(self.config, costs, self.server, self._order)
        many = len(self.costs.plan.clients)
        changes = sum(len(crew.clients) * self._changes(crew, option) for crew, option in pairs)
        exposed = sum(len(crew.clients) * self._exposed(option) for crew, option in pairs)
        return Figures(
            memory=memory,
            server=self._server_peak(candidate),
            seconds=seconds,
            joules=joules,
            bytes_up=up,
            bytes_down=down,
            leakage=None if self.leakage is None else exposed / many,
            blocks=sum(len(crew.clients) * dict(option)[CUT] for crew, option in pairs) / many,
            changes=changes / many + shared_changes(self.config, candidate.shared, self.ranges),
        )

    def _of(self, shared: Shared) -> list[Found]:
        """The candidates with these shared settings that may be on the front."""
        fitting = [self._fitting(kind, shared) for kind in self.kinds]
        if not all(fitting):
            return []
        chosen: list[tuple[Option, ...]] = [(option,) for option in fitting[0]]
        states = self._states(self.kinds[0], fitting[0], shared)
        for kind, options in zip(self.kinds[1:], fitting[1:], strict=True):
            states, chosen = self._joined(states, chosen, self._states(kind, options, shared), options)
        candidates = [Candidate(shared, options) for options in chosen]
        found = [Found(candidate, self.figures(candidate)) for candidate in candidates]
        return [each for each in found if self._is_served(each)]

    def _fitting(self, kind: Kind, shared: Shared) -> list[Option]:
        """The options of a kind with which its clients fit their devices, but for those no better than another."""
        fitting = [option for option in self._options(kind, shared) if self._fits(kind, option, shared)]
        if not fitting:
            return []
        kept = non_dominated(rounded(self._states(kind, fitting, shared)))
        return [fitting[place] for place in kept]

    def _options(self, kind: Kind, shared: Shared) -> list[Option]:
        possible = self.ranges.options(shared)
        return [
            each
            for each in possible
            if all(consistent(self.config, crew.name, each, shared.codec) for crew in kind.crews)
        ]

    def _fits(self, kind: Kind, option: Option, shared: Shared) -> bool:
        fits = True
        for crew in kind.crews:
            if crew.device is not None and (has := crew.device.memory) is not None:
                needs = self.costs.of(crew, option, shared).memory
                settings = (*option, ("batch_size", shared.batch))
                fits &= self._noted(TooLarge(crew.name, crew.device.name, needs, has, settings))
        return fits

    def _is_served(self, found: Found) -> bool:
        """Whether the server's device has memory enough, where the config names one."""
        if self._room is None:
            return True
        settings = ((CUT, found.candidate.cuts[0]), ("batch_size", found.candidate.shared.batch))
        return self._noted(TooLarge("the server", self.server.name, found.figures.server, self._room, settings))

    def _noted(self, found: TooLarge) -> bool:
        """Whether it is not too large; remembers the least of each party."""
        least = self._least.get(found.party)
        if least is None or found.needs < least.needs:
            self._least[found.party] = found
        return found.needs <= found.has

    def _server_peak(self, candidate: Candidate) -> int:
        cuts, widest, kept, answered = dict[str, int](), "", 0, False
        for kind, option in zip(self.kinds, candidate.options, strict=True):
            for crew in kind.crews:
                spec, cut = spec_of(self.config, crew.name, option), dict(option)[CUT]
                cuts[spec.task_group] = min(cut, cuts.get(spec.task_group, cut))
                if cut == candidate.cuts[0]:
                    widest = max(widest, spec.dtype, key=lambda each: ELEMENT.get(each, 0))
                answered |= gets_gradient(spec.learns)
                kept += self.costs.kept(crew, option, candidate.shared)
        return self.costs.server(cuts, widest, candidate.shared.batch, answered) + kept

    def _states(self, kind: Kind, options: Sequence[Option], shared: Shared) -> Rows:
        return np.array([self._state(kind, option, shared) for option in options])

    def _state(self, kind: Kind, option: Option, shared: Shared) -> list[float]:
        """What a kind's option adds: its peak, by group the four times, and the sums.

        What the server needs goes by its blocks and by what it keeps of texts, which count where its memory is a limit.
        """
        peak, times = 0, dict.fromkeys(self.groups, NO_TIME)
        joules, size, changes, pooled = 0.0, 0, 0, self.config.training.server_update == "pooled"
        for crew in kind.crews:
            costs, many = self.costs.of(crew, option, shared), len(crew.clients)
            peak, size = max(peak, costs.memory), size + many * (costs.bytes_up + costs.bytes_down)
            changes += many * self._changes(crew, option)
            if (work := costs.work) is not None:
                group = work.task_group
                times[group] = Times(*map(max, times[group], times_of(work, self.server, pooled)))
                joules += many * _seconds_at_work(work, self.server) * (work.device.watts or 0.0)
        limited = self._room is not None
        blocks = limited * (self.costs.plan.n_layers - dict(option)[CUT])
        largest = [peak, blocks, *(seconds for group in self.groups for seconds in times[group])]
        kept = sum(self.costs.kept(crew, option, shared) for crew in kind.crews) if limited else 0
        return [*largest, joules, size, kept, kind.clients * self._exposed(option), changes]

    def _joined(
        self, states: Rows, chosen: Sequence[tuple[Option, ...]], own: Rows, options: Sequence[Option]
    ) -> tuple[Rows, list[tuple[Option, ...]]]:
        """The states of all that was chosen so far with each option of one kind more, but for those no better."""
        most, sums = slice(None, -SUMS), slice(-SUMS, None)
        largest = np.maximum(states[:, None, most], own[None, :, most])
        both = np.concatenate([largest, states[:, None, sums] + own[None, :, sums]], axis=2).reshape(-1, own.shape[1])
        kept = non_dominated(rounded(both))
        if len(kept) > MOST:
            self.exact = False
            kept = [kept[place] for place in non_dominated(both[kept], near=(1 + NEAR) ** (1 / len(self.kinds)) - 1)]
        return both[kept], [(*chosen[place // len(own)], options[place % len(own)]) for place in kept]

    def _exposed(self, option: Option) -> float:
        """What counts as lost to an attack at a client's cut, without figures of one the blocks that the server has."""
        cut = dict(option)[CUT]
        found = None if self.leakage is None else self.leakage.worst(cut)
        return float(self.costs.plan.n_layers - cut) if found is None else found

    def _changes(self, crew: Crew, option: Option) -> int:
        return changes(self.config, crew.name, option, self.ranges)


def _order(plan: Plan, kinds: Sequence[Kind]) -> Iterator[tuple[Crew, int]]:
    """The clients in the order of the config: how many follow each other that are of a crew."""
    crews: dict[str, list[Crew]] = {}
    for crew in (crew for kind in kinds for crew in kind.crews):
        crews.setdefault(crew.name, []).append(crew)
    for client in plan.kinds:
        of_entry = crews[client.key.removeprefix("clients.")]
        if len(of_entry) == 1:
            yield of_entry[0], len(of_entry[0].clients)
            continue
        whose = {name: crew for crew in of_entry for name in crew.clients}
        for crew, names in groupby(plan.names_of(client), whose.__getitem__):
            yield crew, len(list(names))


def times_of(work: ClientWork, server: Device, pooled: bool) -> Times:
    """The times of a client whose local steps are all alike."""
    step, steps = work.steps[0], len(work.steps)
    before = work.forward(step) + work.up(step, server)
    served = compute_seconds(step.server_flops, server)
    after = work.down(step, server) + work.backward(step)
    cycle, last = before + served + after, work.encoding + work.adapters_up(server)
    delivered = work.adapters_down(server) + work.decoding
    if not pooled or steps == 1:
        return Times(steps * cycle + last, 0.0, 0.0, delivered)
    return Times(steps * cycle + last, before + served + (steps - 2) * cycle, served + after + last, delivered)


def _seconds_at_work(work: ClientWork, server: Device) -> float:
    step = work.steps[0]
    one = work.forward(step) + work.backward(step) + work.up(step, server) + work.down(step, server)
    ends = work.adapters_up(server) + work.adapters_down(server) + work.encoding + work.decoding
    return len(work.steps) * one + ends
