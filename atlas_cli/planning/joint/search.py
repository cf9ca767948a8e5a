"""The search: every candidate of a space that none is better than, without looking at each.

Settings that all clients share are gone through. Among those of the kinds, peaks and times of a round are the largest
of any client, and joules, bytes and steps are sums. So settings of a kind that are no better in any of these are left
out, and those of two kinds together, and so on, before they are joined with the next kind's.

All clients of a group keep the server equally long, s, as they have one cut. With a for forward and upload, b for
download and backward, e for the upload of adapters, and n local steps of c = a + s + b, a group of pooled clients has
sent its adapters after

    max(max(n c + e), max(a + s + (n - 2) c) + max(s + b + e))

each of these largest values that of another client: whoever is early waits at the last step for the slowest of the step
before. Clients that do not wait (``per-client``) have sent theirs after max(n c + e).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.planning.cuts.leakage import Leakage
from atlas_cli.planning.devices.clock import ClientWork
from atlas_cli.planning.devices.cost import compute_seconds
from atlas_cli.planning.devices.devices import Device, server_device
from atlas_cli.planning.joint.candidate import Candidate, Kind
from atlas_cli.planning.joint.costs import Costs
from atlas_cli.planning.joint.figures import Figures, figures_of
from atlas_cli.planning.joint.front import Rows, non_dominated, rounded
from atlas_cli.planning.joint.space import Option, Ranges, Shared, shared_steps_away, steps_away

SUMS = 3  # the last columns of a state: joules, bytes, steps away; the others are largest values


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
    """The least memory that clients of an entry of the config need with any settings, and what their device has."""

    entry: str
    device: str
    needs: int
    has: int
    shared: Shared
    option: Option


class Search:
    """A search over the settings of a plan's clients.

    Args:
        config: what the user has, from which steps are counted.
        costs: of clients with any settings; ``kinds``: who shares a choice.
        leakage: by layer; cuts that were not measured are left out.
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
        self.options = ranges.options()
        self._least: dict[str, TooLarge] = {}

    @property
    def size(self) -> int:
        """The number of candidates."""
        return len(self._shared()) * len(self.options) ** len(self.kinds)

    def front(self) -> list[Found]:
        """The candidates that fit all devices and that none is better than, of equals one; those of the least memory
        first."""
        found = [each for shared in self._shared() for each in self._of(shared)]
        if not found:
            return []
        kept = non_dominated(rounded(np.array([each.figures.costs() for each in found], dtype=float)))
        return sorted((found[place] for place in kept), key=lambda each: each.figures.costs())

    def too_large(self) -> list[TooLarge]:
        """The entries of the config whose clients fit with no settings, after a search."""
        return [least for least in self._least.values() if least.needs > least.has]

    def figures(self, candidate: Candidate) -> Figures:
        """The figures of a candidate."""
        chosen = zip(self.kinds, candidate.options, strict=True)
        pairs = [(crew, option) for kind, option in chosen for crew in kind.crews]
        costs = {crew: self.costs.of(crew, option, candidate.shared) for crew, option in pairs}
        away = sum(len(crew.clients) * self._away(crew.name, option) for crew, option in pairs)
        away += sum(kind.clients for kind in self.kinds) * shared_steps_away(self.config, candidate.shared, self.ranges)
        return figures_of(self.config, self.kinds, costs, self.server, candidate, self.leakage, away)

    def _shared(self) -> list[Shared]:
        measured = None if self.leakage is None else self.leakage.layers
        all_of_them = self.ranges.shared(self.config, self.costs.plan.n_layers)
        return [shared for shared in all_of_them if measured is None or shared.cut in measured]

    def _of(self, shared: Shared) -> list[Found]:
        """The candidates with these shared settings that may be on the front."""
        fitting = [self._fitting(kind, shared) for kind in self.kinds]
        if not all(fitting):
            return []
        chosen: list[tuple[Option, ...]] = [(option,) for option in fitting[0]]
        states = self._states(self.kinds[0], fitting[0], shared)
        for kind, options in zip(self.kinds[1:], fitting[1:], strict=True):
            states, chosen = _joined(states, chosen, self._states(kind, options, shared), options)
        candidates = [Candidate(shared, options) for options in chosen]
        return [Found(candidate, self.figures(candidate)) for candidate in candidates]

    def _fitting(self, kind: Kind, shared: Shared) -> list[Option]:
        """The options of a kind with which its clients fit their devices, but for those no better than another."""
        fitting = [option for option in self.options if self._fits(kind, option, shared)]
        if not fitting:
            return []
        kept = non_dominated(rounded(self._states(kind, fitting, shared)))
        return [fitting[place] for place in kept]

    def _fits(self, kind: Kind, option: Option, shared: Shared) -> bool:
        fits = True
        for crew in kind.crews:
            needs, has = self.costs.of(crew, option, shared).memory, crew.device.memory if crew.device else None
            fits &= has is None or needs <= has
            least = self._least.get(crew.name)
            if has is not None and (least is None or needs < least.needs):
                assert crew.device is not None
                self._least[crew.name] = TooLarge(crew.name, crew.device.name, needs, has, shared, option)
        return fits

    def _states(self, kind: Kind, options: Sequence[Option], shared: Shared) -> Rows:
        return np.array([self._state(kind, option, shared) for option in options])

    def _state(self, kind: Kind, option: Option, shared: Shared) -> list[float]:
        """What a kind's option adds: its peak, by group the four times, and the sums."""
        peak, times = 0, dict.fromkeys(self.groups, NO_TIME)
        joules, size, away, pooled = 0.0, 0, 0, self.config.training.server_update == "pooled"
        for crew in kind.crews:
            costs, many = self.costs.of(crew, option, shared), len(crew.clients)
            peak, size = max(peak, costs.memory), size + many * (costs.bytes_up + costs.bytes_down)
            away += many * self._away(crew.name, option)
            if (work := costs.work) is not None:
                group = work.task_group
                times[group] = Times(*map(max, times[group], times_of(work, self.server, pooled)))
                joules += many * _seconds_at_work(work, self.server) * (work.device.watts or 0.0)
        return [peak, *(seconds for group in self.groups for seconds in times[group]), joules, size, away]

    def _away(self, name: str, option: Option) -> int:
        return steps_away(self.config, name, option, self.ranges)


def times_of(work: ClientWork, server: Device, pooled: bool) -> Times:
    """The times of a client whose local steps are all alike."""
    step, steps = work.steps[0], len(work.steps)
    before = work.forward(step) + work.up(step, server)
    served = compute_seconds(step.server_flops, server)
    after = work.down(step, server) + work.backward(step)
    cycle, last, delivered = before + served + after, work.adapters_up(server), work.adapters_down(server)
    if not pooled or steps == 1:
        return Times(steps * cycle + last, 0.0, 0.0, delivered)
    return Times(steps * cycle + last, before + served + (steps - 2) * cycle, served + after + last, delivered)


def _seconds_at_work(work: ClientWork, server: Device) -> float:
    step = work.steps[0]
    one = work.forward(step) + work.backward(step) + work.up(step, server) + work.down(step, server)
    return len(work.steps) * one + work.adapters_up(server) + work.adapters_down(server)


def _joined(
    states: Rows, chosen: Sequence[tuple[Option, ...]], own: Rows, options: Sequence[Option]
) -> tuple[Rows, list[tuple[Option, ...]]]:
    """The states of all that was chosen so far with each option of one kind more, but for those no better."""
    most, sums = slice(None, -SUMS), slice(-SUMS, None)
    largest = np.maximum(states[:, None, most], own[None, :, most])
    both = np.concatenate([largest, states[:, None, sums] + own[None, :, sums]], axis=2).reshape(-1, own.shape[1])
    kept = non_dominated(rounded(both))
    return both[kept], [(*chosen[place // len(own)], options[place % len(own)]) for place in kept]
