"""The table and the pictures of a leaderboard."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from atlas_cli.reports.charts.intervals import Estimate, interval_chart
from atlas_cli.reports.charts.palette import colour_of_group
from atlas_cli.reports.protocols.budget import shown
from atlas_cli.reports.protocols.leaderboard import Entry, Goal, without_figure
from atlas_cli.reports.sheets import Cell, Column, Sheet
from atlas_cli.units import format_number

UNITS = {"time": "s", "energy": "J", "bytes": "MB", "memory": "MiB"}
_VALUE = {
    "quality-under-budget": "quality",
    "cost-to-target": "reached",
    "robustness": "share kept",
}
_SAID = {
    "quality-under-budget": "quality: on the test part, in the best round within the budget by the validation part, or "
    "in the last where there is none",
    "cost-to-target": "s, J, MB: medians of the runs that reached it by the validation part, or the test part where "
    "there is none; low, high: the least and the most of the first that is known; >: so much was spent in vain",
    "robustness": "share kept: of the quality of the same run undisturbed, in the mean of paired seeds; below 1 is "
    "worse, whichever way the metric is",
}
_COSTS = (
    "s, J: of whole rounds on the virtual clock; MB: of the task group, both ways, after set-up; MiB: measured peak of "
    "its largest client"
)
_RATIOS = {
    "cost-to-target": "x baseline: what the target cost as a multiple of what it cost the baseline, in the median of "
    "the seeds in which both reached it",
    "robustness": "x undisturbed: what the target cost as a multiple of what it cost undisturbed, in the median of the "
    "seeds in which both reached it",
}
_INTERVALS = "low, high: 95 % over seeds (Student's t); of one run over its test examples, where they are shares"


def leaderboard_sheet(protocol: str, entries: Sequence[Entry], terms: str) -> Sheet:
    """A row for each setting of each task group, best first.

    Args:
        terms: the budget or the target, as it was given.
    """
    robust, of_cost = protocol == "robustness", protocol == "cost-to-target"
    columns = [Column("task group"), Column("metric"), Column("setting")]
    columns += [Column("perturbed")] if robust else []
    columns += [] if of_cost else [Column("runs", True)]
    columns += [Column(name, True) for name in (_VALUE[protocol], "low", "high")]
    columns += [Column(unit, True, spare) for unit, spare in zip(UNITS.values(), (1, 2, 1, 2), strict=True)]
    rows = [_row(protocol, each, robust) for each in entries]
    notes = [_SAID[protocol], _COSTS, *([] if of_cost else [_INTERVALS])]
    if any(each.ratios is not None for each in entries):
        columns.append(Column("x baseline" if of_cost else "x undisturbed", True))
        rows = [[*row, _ratio(each)] for row, each in zip(rows, entries, strict=True)]
        notes.append(_RATIOS[protocol])
    lower = dict.fromkeys(each.metric for each in entries if each.better == "lower")
    notes += [f"the lower the better: {', '.join(lower)}"] if lower and not robust else []
    title = f"{protocol.replace('-', ' ').capitalize()}{f': {terms}' if terms else ''}"
    return Sheet("leaderboard", title, columns, rows, [*notes, *([] if of_cost else without_figure(entries))])


def _row(protocol: str, entry: Entry, robust: bool) -> Sequence[Cell]:
    counted = str(entry.runs) if entry.counted == entry.runs else f"{entry.counted} of {entry.runs}"
    low, high = entry.interval or (None, None)
    value: Cell = entry.value
    if protocol == "cost-to-target":
        value = f"{entry.counted} of {entry.runs}"
        name = entry.price
        low, high = (None if end is None else shown(name, end) for end in (low, high))
    elif value is None:
        value = "infeasible" if not robust and entry.infeasible else "-"
    spent: list[Cell] = []
    for name in UNITS:
        known, least = entry.spent[name], (entry.least or {}).get(name)
        spent.append(None if known is None else shown(name, known))
        if known is None and least is not None:
            spent[-1] = f"> {format_number(shown(name, least))}"
    perturbed = [entry.perturbed or ""] if robust else []
    runs = [] if protocol == "cost-to-target" else [counted]
    return entry.task_group, entry.metric, entry.setting, *perturbed, *runs, value, low, high, *spent


def _ratio(entry: Entry) -> str:
    """The ratio of the first known cost, and of how many seeds it is."""
    known = ((name, value) for name, value in (entry.ratios or {}).items() if value is not None)
    name, value = next(known, ("", None))
    if value is None:
        return f"- (0 of {entry.runs})"
    return f"{format_number(value)} {name} ({entry.pairs} of {entry.runs})"


def leaderboard_pictures(protocol: str, entries: Sequence[Entry]) -> Iterator[tuple[str, str]]:
    """A picture a task group, by the name of its file: what each setting has, with its interval."""
    for number, group in enumerate(dict.fromkeys(each.task_group for each in entries)):
        rows = [each for each in entries if each.task_group == group and each.value is not None]
        if not rows:
            continue
        name = {"quality-under-budget": rows[0].metric, "robustness": f"share of {rows[0].metric} kept"}.get(protocol)
        if name is None:
            price = rows[0].price
            rows = [each for each in rows if each.price == price]
            name = f"{UNITS[price]} to the target"
        estimates = [_estimate(protocol, each) for each in rows]
        file = re.sub(r"[^A-Za-z0-9]+", "-", f"leaderboard-{group}").strip("-")
        yield file, interval_chart(estimates, colour_of_group(number), name, f"{group}: {protocol}")


def _estimate(protocol: str, entry: Entry) -> Estimate:
    value = entry.value or 0.0
    low, high = entry.interval or (value, value)
    if protocol == "cost-to-target":
        value, low, high = (shown(entry.price, each) for each in (value, low, high))
    label = ", ".join(part.rpartition("=")[2] for part in f"{entry.setting} {entry.perturbed or ''}".split())
    return Estimate(label, value, low, high, format_number(value))


def leaderboard_record(
    protocol: str, entries: Sequence[Entry], budget: Mapping[str, float], goal: Goal | None, baseline: str | None
) -> dict[str, object]:
    """The leaderboard as JSON."""
    targets, held = ({}, None) if goal is None else (dict(goal.targets), goal.held)
    terms = {"protocol": protocol, "budget": dict(budget), "targets": targets, "held": held, "baseline": baseline}
    return {**terms, "entries": [each.record() for each in entries]}
