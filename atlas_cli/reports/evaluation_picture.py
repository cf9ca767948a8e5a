"""The picture of an evaluation: which class was taken for which, or else the figures with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atlas_cli.reports.charts.canvas import standalone
from atlas_cli.reports.charts.cells import cell_chart
from atlas_cli.reports.charts.intervals import Estimate, interval_chart
from atlas_cli.reports.charts.palette import colour_of_group
from atlas_cli.statistics import Ends
from atlas_cli.units import format_number

MOST_CLASSES = 30  # more fit on no screen; their counts are in the JSON


def confusion_picture(classes: Sequence[str], counts: Sequence[Sequence[int]], what: str) -> str:
    """Of each class, a row, the share that was predicted as each; the most frequent classes where there are many."""
    order = sorted(range(len(classes)), key=lambda i: (-sum(counts[i]), i))[:MOST_CLASSES]
    shown = sorted(order)
    rows: list[tuple[str, list[float | None]]] = []
    for i in shown:
        total = sum(counts[i])
        rows.append((classes[i], [counts[i][j] / total if total else None for j in shown]))
    label = f"{what}: of each class, the share that was predicted as each"
    most = "" if len(shown) == len(classes) else f" (the {len(shown)} most frequent classes)"
    axis = f"rows: label, columns: predicted as{most}"
    return standalone(cell_chart(rows, [classes[j] for j in shown], colour_of_group(0), label, axis, 1.0))


def figures_picture(
    figures: Mapping[str, float | None], intervals: Mapping[str, Ends | None], metric: str, what: str
) -> str:
    """Figures that are shares or correlations, on one axis; the primary one alone where that is neither."""
    known = {name: value for name, value in figures.items() if value is not None and intervals.get(name) is not None}
    shares = {name: value for name, value in known.items() if -1 <= value <= 1 and name != "loss"}
    chosen = shares if metric in shares else {name: value for name, value in known.items() if name == metric}
    rows = []
    for name, value in chosen.items():
        ends = intervals[name]
        assert ends is not None
        rows.append(Estimate(name, value, *ends, format_number(value)))
    label = f"{what}: {', '.join(chosen) or metric}, with intervals of 95 %"
    return standalone(interval_chart(rows, colour_of_group(0), "interval of 95 %", label))
