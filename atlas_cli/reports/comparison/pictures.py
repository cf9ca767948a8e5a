"""Pictures of a comparison: a figure by bytes and by virtual seconds, and the memory of the largest client."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from atlas_cli.reports.charts.bars import LABELS, Bar, bar_chart
from atlas_cli.reports.charts.canvas import shortened
from atlas_cli.reports.charts.lines import Line, line_chart
from atlas_cli.reports.comparison.compared import ComparedRun
from atlas_cli.reports.comparison.sheets import largest_client
from atlas_cli.reports.comparison.targets import spent
from atlas_cli.reports.memory import PARTS
from atlas_cli.reports.page.intervals import interval
from atlas_cli.reports.summary import Record
from atlas_cli.units import MB, MIB, format_bytes_mib

BANDS = 3  # runs whose intervals do not hide each other
_COLOURS = {
    "frozen_weights": "weights",
    "saved_activations": "activations",
    "cut_buffers": "activations",
    "adapters": "trained",
    "heads": "trained",
    "gradients": "trained",
    "optimizer": "trained",
}
_NAMES = {
    "weights": "frozen weights",
    "activations": "saved activations and buffers at the cut",
    "trained": "adapters, heads, gradients, optimizer",
}


def pictures_of(runs: Sequence[ComparedRun]) -> Iterator[tuple[str, str]]:
    """Pictures by the name of their file; of task groups and prices that no run has there is none."""
    for group in dict.fromkeys(group for run in runs for group in run.groups):
        for metric in dict.fromkeys(run.groups[group].metric for run in runs if group in run.groups):
            if metric is None:
                continue
            for price, name in {
                "bytes": "MB, both ways, after set-up",
                "seconds": "seconds on the virtual clock",
            }.items():
                lines = list(_lines(runs, group, metric, price))
                if lines:
                    title = f"{group}: test {metric} by {name}"
                    yield _file(metric, "by", price, group), line_chart(lines, name, metric, title, rounds=False)
    labels = _labels(runs)
    if bars := [bar for run in runs if (bar := _bar(run, labels[run.name])) is not None]:
        title = "Memory of the largest client of each run, measured"
        yield "memory", bar_chart(bars, _NAMES, "MiB", title)


def _lines(runs: Sequence[ComparedRun], group: str, metric: str, price: str) -> Iterator[Line]:
    for number, run in enumerate(runs):
        rows = run.records.groups.get(group, [])
        along = [
            (x, row)
            for row in rows
            if row["test"].get(metric) is not None and (x := _price(rows, row["round"], price)) is not None
        ]
        if len(along) > 1:
            ends = [(x, *found) for x, row in along if (found := interval(row, metric))] if len(runs) <= BANDS else []
            yield Line(run.name, [(x, row["test"][metric]) for x, row in along], number, band=ends)


def _price(rows: Sequence[Record], until: int, price: str) -> float | None:
    if price == "seconds":
        return spent(rows, until, "simulated_seconds")
    return sum(row["bytes_up"] + row["bytes_down"] for row in rows if 0 < row["round"] <= until) / MB


def _labels(runs: Sequence[ComparedRun]) -> dict[str, str]:
    """Names that stay apart when they are shortened: what runs are set to, without the keys; else numbered."""
    names = {run.name: ", ".join(part.rpartition("=")[2] for part in run.name.split(", ")) for run in runs}
    if len({shortened(name, LABELS) for name in names.values()}) < len(runs):
        return {name: f"{number}. {label}" for number, (name, label) in enumerate(names.items(), 1)}
    return names


def _bar(run: ComparedRun, label: str) -> Bar | None:
    name, total = largest_client(run)
    if name is None or total is None or run.records.memory is None:
        return None
    held, parts = run.records.memory["clients"][name], dict.fromkeys(_NAMES, 0.0)
    for key in PARTS:
        parts[_COLOURS[key]] += held[key] / MIB
    return Bar(label, parts, format_bytes_mib(total))


def _file(*words: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", "-".join(words)).strip("-")
