"""Leaderboards of runs under a protocol: settings over their seeds, best first, from records alone.

quality-under-budget   the test figure of the round that the validation part chooses among those within the budget;
                       without such a part of the last of them, so that no test part chooses
cost-to-target         what was spent until the first round in which the validation part (without one, the test part)
                       reaches the target and keeps it for as many evaluations as asked; a run that never does has spent
                       more than it did, and is in no median; with a baseline, the ratio to its cost, seed by seed
robustness             the quality with faults or other devices, as a share of that of the same run without; with a
                       target, the ratio of what it costs to reach it, seed by seed
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from atlas_cli.reports.comparison.compared import SEED
from atlas_cli.reports.page.intervals import interval
from atlas_cli.reports.page.records import RunRecords
from atlas_cli.reports.protocols.budget import NAMES, Point, Spent, curve, first_reaching, unknown, within
from atlas_cli.statistics import Ends, over_seeds

INFEASIBLE = "no evaluated round within the budget"
PERTURBED = ("faults.", "devices.", "training.deadline")


@dataclass(frozen=True)
class Run:
    """A finished run with the values of the sweep's axes."""

    values: Mapping[str, str]
    records: RunRecords

    def setting(self, but: Sequence[str] = (SEED,)) -> str:
        """Its values but for some keys; "all" where there are no others."""
        return setting_of(self.values, but)


def setting_of(values: Mapping[str, str], but: Sequence[str] = (SEED,)) -> str:
    """The values of a sweep's axes but for some keys; "all" where there are no others."""
    return " ".join(f"{key}={value}" for key, value in values.items() if key not in but) or "all"


@dataclass(frozen=True)
class Entry:
    """A row of a leaderboard.

    Attributes:
        setting: values of the axes; ``perturbed``: those of faults and devices, if the protocol tells them apart.
        runs: how many there are; ``counted``: those with a figure.
        value: the mean quality, the mean share kept, or the median of what the first known cost came to.
        interval: of 95 % over seeds (Student's); of one run, of its test examples where they are shares. Of a cost the
            least and the most.
        spent: means at the chosen rounds, or medians until the target.
        least: what was spent at least where no run reached the target.
        rounds: the chosen ones.
        why: why others, or all, have no figure.
        ratios: by cost, the median over seeds of what the target cost here to what it cost the baseline, or the
            undisturbed run, where both reached it; None where no cost is known, or not asked for.
        pairs: how many seeds these are of.
    """

    task_group: str
    metric: str
    better: str
    setting: str
    runs: int
    counted: int
    value: float | None
    interval: Ends | None
    spent: Spent
    rounds: Sequence[int]
    perturbed: str | None = None
    least: Spent | None = None
    why: Sequence[str] = ()
    ratios: Spent | None = None
    pairs: int | None = None

    @property
    def price(self) -> str:
        """The first cost that is known."""
        return next((name for name, value in self.spent.items() if value is not None), "bytes")

    @property
    def infeasible(self) -> bool:
        """Whether no run has a round within the budget."""
        return self.value is None and list(self.why) == [INFEASIBLE]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def quality(runs: Sequence[Run], budget: Mapping[str, float]) -> list[Entry]:
    """Quality under a budget, best first; settings of which no run has a round within it come last."""
    found = []
    for group, pools in _pools(runs).items():
        entries = [_quality_of(group, setting, pool, budget) for setting, pool in pools.items()]
        found += sorted(entries, key=_best_first)
    return found


def cost(runs: Sequence[Run], goal: Goal, baseline: str | None = None) -> list[Entry]:
    """The cost of a target by metric, least first: more runs that reach it before fewer, then the least median.

    Args:
        baseline: the setting to which others have a ratio.
    """
    found = []
    for group, pools in _pools(runs).items():
        if group[1] not in goal.targets:
            continue
        entries = list[Entry]()
        for setting, pool in pools.items():
            entry = _cost_of(group, setting, pool, goal)
            if baseline is not None:
                entry = _with_ratios(entry, pool, _by_seed(pools.get(baseline, ())), goal)
            entries.append(entry)
        found += sorted(entries, key=lambda each: (-each.counted / each.runs, each.value or 0.0))
    return found


def robustness(
    runs: Sequence[Run], budget: Mapping[str, float], clean: Mapping[str, str], goal: Goal | None = None
) -> list[Entry]:
    """The share of its quality that a setting keeps when perturbed, seed by seed; settings by their worst.

    Args:
        clean: the undisturbed value of every axis of faults or devices.
        goal: a target, to compare what it costs with and without.
    """
    axes, found = list(clean), []
    for group, pools in _pools(runs, axes).items():
        entries = []
        for setting, pool in pools.items():
            base = _by_seed([run for run in pool if all(run.values[key] == clean[key] for key in axes)])
            others: dict[str, list[Run]] = {}
            for run in pool:
                label = " ".join(f"{key}={run.values[key]}" for key in axes if run.values[key] != clean[key])
                if label:
                    others.setdefault(label, []).append(run)
            for label, members in others.items():
                kept = _kept(group, setting, label, members, base, budget)
                if goal is not None and group[1] in goal.targets:
                    kept = _with_ratios(kept, members, base, goal)
                entries.append(kept)
        worst: dict[str, float] = {}
        for each in entries:
            worst[each.setting] = min(worst.get(each.setting, float("inf")), _or(each.value, float("-inf")))
        found += sorted(entries, key=lambda e: (-worst[e.setting], e.setting, -_or(e.value, float("-inf"))))
    return found


@dataclass(frozen=True)
class Goal:
    """What is to be reached: values by metric, and in how many evaluations in a row, the first of which counts."""

    targets: Mapping[str, float]
    held: int = 1


Group = tuple[str, str, str]  # name, primary metric, which way it is better
Choice = tuple[Point | None, str]  # a round, or why there is none


def _pools(runs: Sequence[Run], but: Sequence[str] = ()) -> dict[Group, dict[str, list[Run]]]:
    """By task group and setting, the runs that differ in their seed, or in these keys, alone."""
    found: dict[Group, dict[str, list[Run]]] = {}
    for run in runs:
        for each in run.records.summaries:
            if each.metric is not None and each.better is not None:
                group = each.task_group, each.metric, each.better
                found.setdefault(group, {}).setdefault(run.setting((SEED, *but)), []).append(run)
    return found


def _chosen(run: Run, group: Group, budget: Mapping[str, float]) -> Choice:
    """The round that counts, or why none does."""
    name, metric, better = group
    points = list(curve(run.records, name, metric))
    if lacking := unknown(points, budget):
        return None, f"no {' and no '.join(lacking)} in its records"
    inside = [point for point in points if within(point, budget)]
    if not inside:
        return None, INFEASIBLE
    validated = [point for point in inside if point.validation is not None]
    if validated:
        pick = min if better == "lower" else max
        return pick(validated, key=lambda point: _or(point.validation, 0.0)), ""
    return inside[-1], ""


def _quality_of(group: Group, setting: str, pool: Sequence[Run], budget: Mapping[str, float]) -> Entry:
    chosen = [_chosen(run, group, budget) for run in pool]
    points = [point for point, _ in chosen if point is not None and point.test is not None]
    values = [point.test for point in points if point.test is not None]
    ends = interval(points[0].row, group[1]) if len(points) == 1 else over_seeds(values)
    return Entry(
        *group,
        setting,
        runs=len(pool),
        counted=len(points),
        value=statistics.fmean(values) if values else None,
        interval=ends,
        spent=_together(points, statistics.fmean),
        rounds=[point.round for point in points],
        why=_reasons(chosen),
    )


def _cost_of(group: Group, setting: str, pool: Sequence[Run], goal: Goal) -> Entry:
    curves = [list(curve(run.records, *group[:2])) for run in pool]
    first = [first_reaching(points, goal.targets[group[1]], group[2], goal.held) for points in curves]
    reached = [point for point in first if point is not None]
    ended = [points[-1] for points, found in zip(curves, first, strict=True) if found is None and points]
    spent = _together(reached, statistics.median)
    entry = Entry(
        *group,
        setting,
        runs=len(pool),
        counted=len(reached),
        value=None,
        interval=None,
        spent=spent,
        rounds=[point.round for point in reached],
        least=None if reached else _together(ended, min),
        why=["never reached"] * bool(ended),
    )
    costs = [value for point in reached if (value := point.spent[entry.price]) is not None]
    ends = (min(costs), max(costs)) if len(costs) > 1 else None
    return replace(entry, value=spent[entry.price], interval=ends)


def _with_ratios(entry: Entry, runs: Sequence[Run], base: Mapping[str, Run], goal: Goal) -> Entry:
    """An entry with what a target cost its runs, as a multiple of what it cost the same seeds of others."""
    group = entry.task_group, entry.metric, entry.better
    pairs = []
    for run in runs:
        twin = base.get(run.values.get(SEED, ""))
        both = [None if each is None else _reached(each, group, goal) for each in (run, twin)]
        if both[0] is not None and both[1] is not None:
            pairs.append((both[0].spent, both[1].spent))
    found: dict[str, float | None] = {}
    for name in NAMES:
        costs = [(own[name], other[name]) for own, other in pairs]
        known = [own / other for own, other in costs if own is not None and other]
        found[name] = statistics.median(known) if known and len(known) == len(costs) else None
    return replace(entry, ratios=found, pairs=len(pairs))


def _by_seed(runs: Sequence[Run]) -> dict[str, Run]:
    return {run.values.get(SEED, ""): run for run in runs}


def _reached(run: Run, group: Group, goal: Goal) -> Point | None:
    name, metric, better = group
    return first_reaching(list(curve(run.records, name, metric)), goal.targets[metric], better, goal.held)


def _kept(
    group: Group, setting: str, label: str, runs: Sequence[Run], clean: Mapping[str, Run], budget: Mapping[str, float]
) -> Entry:
    shares, points, reasons = list[float](), list[Point](), list[Choice]()
    for run in runs:
        twin = clean.get(run.values.get(SEED, ""))
        pair: list[Choice] = [(None, "no undisturbed run")]
        if twin is not None:
            pair = [_chosen(each, group, budget) for each in (run, twin)]
        figures = [point.test for point, _ in pair if point is not None and point.test is not None]
        reasons += pair
        if len(figures) == 2 and figures[0] and figures[1]:
            shares.append(figures[1] / figures[0] if group[2] == "lower" else figures[0] / figures[1])
            points += [point for point, _ in pair[:1] if point is not None]
        elif len(figures) == 2:
            reasons.append((None, "a figure of 0, of which nothing is a share"))
    return Entry(
        *group,
        setting,
        runs=len(runs),
        counted=len(shares),
        value=statistics.fmean(shares) if shares else None,
        interval=over_seeds(shares),
        spent=_together(points, statistics.fmean),
        rounds=[point.round for point in points],
        perturbed=label,
        why=_reasons(reasons),
    )


def _reasons(chosen: Sequence[Choice]) -> list[str]:
    return list(dict.fromkeys(why for _, why in chosen if why))


def _together(points: Sequence[Point], of: Any) -> dict[str, float | None]:
    """What was spent, over several runs; None where one of them does not know."""
    found: dict[str, float | None] = {}
    for name in NAMES:
        values = [point.spent[name] for point in points]
        found[name] = None if not values or None in values else of(values)
    return found


def _best_first(entry: Entry) -> tuple[bool, float]:
    value = _or(entry.value, 0.0)
    return entry.value is None, value if entry.better == "lower" else -value


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def without_figure(entries: Sequence[Entry]) -> Iterator[str]:
    """What runs that are in no figure lack, once each."""
    for entry in entries:
        if entry.counted < entry.runs:
            named = " ".join(filter(None, (entry.setting, entry.perturbed)))
            left = f"{entry.runs - entry.counted} of {entry.runs} in no figure"
            yield f"{entry.task_group}, {named}: {left}: {'; '.join(entry.why)}"
