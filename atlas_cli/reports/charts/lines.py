"""Values by round, or by what they cost: a line a task group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from atlas_cli.reports.charts.canvas import WIDTH, legend, line, number, svg, text
from atlas_cli.reports.charts.palette import GROUP_COLOURS, colour_of_group
from atlas_cli.reports.charts.scale import Scale, scale, tick_text

HEIGHT = 180  # of the plot alone
LEFT = 52  # where it begins, beside its ticks
MARKED = 30  # points of a line that have a marker each; of more, the last
DASHES = ("", "6 3", "2 2", "8 3 2 3")
# around (0, 0)
MARKERS = (
    "M-3,0a3,3 0 1,0 6,0a3,3 0 1,0 -6,0z",
    "M-3,-3h6v6h-6z",
    "M0,-4.2l4.2,4.2l-4.2,4.2l-4.2,-4.2z",
    "M0,-4l4,7h-8z",
    "M0,4l4,-7h-8z",
)


@dataclass(frozen=True)
class Line:
    """A line of points (x, y).

    Attributes:
        group: number of the task group, which gives colour and marker.
        dash: 0 is a solid line; only solid ones are in the legend.
        band: (x, low, high) where the value is known to lie in an interval.
        marks: a text beside each point; then points are apart, and no line joins them.
    """

    label: str
    points: Sequence[tuple[float, float]]
    group: int
    dash: int = 0
    band: Sequence[tuple[float, float, float]] = ()
    marks: Sequence[str] = ()


def line_chart(
    lines: Sequence[Line], x_name: str, y_name: str, label: str, *, rounds: bool = True, from_zero: bool = False
) -> str:
    """The chart.

    Args:
        rounds: x is a number of rounds.
        from_zero: y begins at zero, and is never logarithmic.
    """
    drawn = [each for each in lines if each.points]
    head, top = legend([(_swatch(each), each.label) for each in drawn if each.dash == 0], 0)
    top += 24
    heights = [y for each in drawn for _, y in each.points]
    heights += [y for each in drawn for _, *ends in each.band for y in ends]
    y_scale = scale(heights, top + HEIGHT, top, zero=from_zero)
    x_scale = scale([x for each in drawn for x, _ in each.points], LEFT, WIDTH - 14, whole=rounds, zero=not rounds)
    note = ", log scale" if y_scale.log else ""
    body = [head, text(0, top - 9, f"{y_name}{note}", kind="muted"), *_axes(x_scale, y_scale, x_name)]
    body += [_band(each, x_scale, y_scale) for each in drawn if each.band]
    body += [_line(each, x_scale, y_scale) for each in drawn]
    return svg(top + HEIGHT + 38, "".join(body), label)


def _axes(x: Scale, y: Scale, x_name: str) -> list[str]:
    bottom = max(y.start, y.end)
    found = []
    for tick in y.ticks:
        found += [line(LEFT, y(tick), WIDTH - 6, y(tick)), text(LEFT - 6, y(tick) + 4, tick_text(tick), "end", "muted")]
    for tick in x.ticks:
        found.append(text(x(tick), bottom + 16, tick_text(tick), "middle", "muted"))
    return [*found, text(WIDTH - 6, bottom + 33, x_name, "end", "muted")]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{number(x)},{number(y)}" for x, y in points)


def _line(each: Line, x: Scale, y: Scale) -> str:
    places = [(x(a), y(b)) for a, b in each.points]
    marked = places if each.marks or len(places) <= MARKED else places[-1:]
    dots = "".join(_marker(each, a, b) for a, b in marked)
    marks = "".join(text(a + 5, b - 4, mark, kind="muted") for (a, b), mark in zip(places, each.marks, strict=False))
    return f'{_stroke(each, _path(places))}<g class="edge">{dots}</g>{marks}'


def _stroke(each: Line, path: str) -> str:
    """The line itself, dashed as the task group is; nothing where points are apart."""
    dashes = DASHES[(each.dash + each.group // GROUP_COLOURS) % len(DASHES)]
    dash = f' stroke-dasharray="{dashes}"' if dashes else ""
    colour = f"var(--{colour_of_group(each.group)})"
    return "" if each.marks else f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'


def _marker(each: Line, x: float, y: float) -> str:
    shape = MARKERS[each.group % len(MARKERS)]
    place = f'transform="translate({number(x)} {number(y)})"'
    return f'<path d="{shape}" {place} fill="var(--{colour_of_group(each.group)})"/>'


def _band(each: Line, x: Scale, y: Scale) -> str:
    upper = [(x(a), y(high)) for a, _, high in each.band]
    lower = [(x(a), y(low)) for a, low, _ in reversed(each.band)]
    return f'<path d="{_path([*upper, *lower])}z" fill="var(--{colour_of_group(each.group)})" fill-opacity="0.15"/>'


def _swatch(each: Line) -> str:
    return _stroke(each, "M0,8h20") + _marker(each, 10, 8)
