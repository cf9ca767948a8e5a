"""Privacy against use as a picture: a metric across, and what the worst attack finds upwards."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from atlas_cli.reports.charts.lines import MARKERS
from atlas_cli.reports.charts.palette import colour_of_group
from atlas_cli.reports.charts.scatter import Guide, Series, Spot, scatter_chart
from atlas_cli.reports.frontier import NONE, Point

_NOTES = (
    "hollow: broken, 95 % or more of that without a defence",
    "points: upper end of the worst attack; whiskers: 95 %",
)


def frontier_pictures(points: Sequence[Point]) -> Iterator[tuple[str, str]]:
    """A picture a task group, by the name of its file."""
    for group in dict.fromkeys(point.task_group for point in points):
        file = re.sub(r"[^A-Za-z0-9]+", "-", f"frontier-{group}").strip("-")
        yield file, _picture([point for point in points if point.task_group == group])


def _picture(points: Sequence[Point]) -> str:
    lower = points[0].better == "lower"
    series = []
    for place, name in enumerate(dict.fromkeys((point.control, point.defence) for point in points)):
        own = [point for point in points if (point.control, point.defence) == name]
        control, defence = name
        label = f"{defence} (control: no defence)" if control else defence or NONE
        colour = "ink" if not defence else "muted" if control else colour_of_group(place - 1)
        series.append(Series(label, [*map(_spot, own)], colour, place % len(MARKERS), dashed=control))
    guides = []
    if (least := max((point.least for point in points if point.least is not None), default=None)) is not None:
        guides.append(Guide("x", least, "largest class"))
    if (floor := points[0].floor) is not None:
        guides.append(Guide("y", floor, "who knows only what is common"))
    best = "lower left" if lower else "lower right"
    return scatter_chart(
        series,
        guides,
        f"{points[0].metric} on the test part{', the lower the better' if lower else ''}",
        "found by the worst attack (0: as chance, 1: all)",
        f"{points[0].task_group}: {points[0].metric} against what the worst attack finds",
        (f"best: {best}, much use and little found", *_NOTES),
    )


def _spot(point: Point) -> Spot:
    """An epsilon stands beside its strength."""
    bound = "".join(f", ε {value:,.3g}" if value < 100 else f", ε {value:,.0f}" for value in point.epsilon.values())
    return Spot(
        point.value,
        point.upper,
        f"{point.strength}{bound}",
        point.interval,
        (point.lower, point.upper),
        point.broken,
    )
