"""Points with whiskers on two axes: a colour and a marker for each series, and a name beside each point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from atlas_cli.reports.charts.canvas import WIDTH, legend, line, number, svg, text
from atlas_cli.reports.charts.lines import LEFT, MARKERS
from atlas_cli.reports.charts.scale import Scale, scale, tick_text

HEIGHT = 300  # of the plot alone
LETTER = 6.4  # a mean letter of a label
# dx, dy, and the share of a name that stands to the left
_AROUND = ((8, -6, 0), (8, 17, 0), (-8, -6, 1), (-8, 17, 1), (0, -10, 0.5), (0, 24, 0.5), (8, 30, 0), (-8, 30, 1))

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Spot:
    """A point with the ends of its whiskers, where it has some; those across are cut where the axis ends.

    ``hollow``: drawn as an outline alone.
    """

    x: float
    y: float
    label: str = ""
    x_ends: tuple[float, float] | None = None
    y_ends: tuple[float, float] | None = None
    hollow: bool = False


@dataclass(frozen=True)
class Series:
    """Points that belong together, joined in their order.

    Attributes:
        colour: a name of the palette; ``marker``: the place of a shape in ``lines.MARKERS``.
        dashed: the line that joins them.
    """

    label: str
    spots: Sequence[Spot]
    colour: str
    marker: int
    dashed: bool = False


@dataclass(frozen=True)
class Guide:
    """A dotted line at a value of an axis, with its name: ``axis`` is "x" or "y"."""

    axis: str
    value: float
    label: str


def scatter_chart(
    series: Sequence[Series], guides: Sequence[Guide], x_name: str, y_name: str, label: str, notes: Sequence[str] = ()
) -> str:
    """The chart; y goes from 0 to 1. ``notes`` are lines below it."""
    head, top = legend([(_swatch(each), each.label) for each in series], 0)
    top += 24
    spots = [spot for each in series for spot in each.spots]
    across = [spot.x for spot in spots]  # an interval over few seeds is wider than all of these together
    across += [guide.value for guide in guides if guide.axis == "x"]
    x, y = scale(across, LEFT, WIDTH - 14), scale([0.0, 1.0], top + HEIGHT, top, zero=True)
    body = [head, text(0, top - 9, y_name, kind="muted"), *_axes(x, y, x_name)]
    body += [_guide(guide, x, y) for guide in guides]
    body += [_series(each, x, y) for each in series]
    body += _labels(spots, x, y)
    bottom = top + HEIGHT + 38
    body += [text(0, bottom + 14 + 17 * place, note, kind="muted") for place, note in enumerate(notes)]
    return svg(bottom + (8 + 17 * len(notes) if notes else 0), "".join(body), label)


def _axes(x: Scale, y: Scale, x_name: str) -> Iterator[str]:
    for tick in y.ticks:
        yield line(LEFT, y(tick), WIDTH - 6, y(tick))
        yield text(LEFT - 6, y(tick) + 4, tick_text(tick), "end", "muted")
    for tick in x.ticks:
        yield line(x(tick), y.start, x(tick), y.start + 4)
        yield text(x(tick), y.start + 16, tick_text(tick), "middle", "muted")
    yield text(WIDTH - 6, y.start + 33, x_name, "end", "muted")


def _guide(guide: Guide, x: Scale, y: Scale) -> str:
    dotted = 'fill="none" stroke="var(--muted)" stroke-width="1.5" stroke-dasharray="2 3"'
    if guide.axis == "x":
        at = x(guide.value)
        name = text(at + 4, y.start - 6, guide.label, kind="muted")
        return f'<path d="M{number(at)},{number(y.start)}V{number(y.end)}" {dotted}/>{name}'
    at = y(guide.value)
    name = text(WIDTH - 8, at - 5, guide.label, "end", "muted")
    return f'<path d="M{number(LEFT)},{number(at)}H{number(WIDTH - 6)}" {dotted}/>{name}'


def _series(each: Series, x: Scale, y: Scale) -> str:
    stroke = f'fill="none" stroke="var(--{each.colour})"'
    places = [(x(spot.x), y(spot.y)) for spot in each.spots]
    joined = ""
    if len(places) > 1:
        dashes = ' stroke-dasharray="4 3"' if each.dashed else ""
        path = "M" + "L".join(f"{number(a)},{number(b)}" for a, b in places)
        joined = f'<path d="{path}" {stroke} stroke-width="1.5"{dashes}/>'
    whiskers = ""
    for spot, (a, b) in zip(each.spots, places, strict=True):
        if spot.x_ends is not None:
            begin, end = (x(min(max(value, x.low), x.high)) for value in spot.x_ends)
            whiskers += f"M{number(begin)},{number(b)}H{number(end)}"
        if spot.y_ends is not None:
            whiskers += f"M{number(a)},{number(y(spot.y_ends[0]))}V{number(y(spot.y_ends[1]))}"
    drawn = f'<path d="{whiskers}" {stroke} stroke-opacity="0.45"/>' if whiskers else ""
    return joined + drawn + "".join(_marker(each, s.hollow, *at) for s, at in zip(each.spots, places, strict=True))


def _marker(each: Series, hollow: bool, x: float, y: float) -> str:
    fill = "page" if hollow else each.colour
    place = f'transform="translate({number(x)} {number(y)}) scale(1.3)"'
    return f'<path d="{MARKERS[each.marker]}" {place} fill="var(--{fill})" stroke="var(--{each.colour})"/>'


def _labels(spots: Sequence[Spot], x: Scale, y: Scale) -> Iterator[str]:
    """The name of each point beside it; where no place is free it is left out, as the table has it."""
    taken: list[Box] = [(x(s.x) - 5, y(s.y) - 5, x(s.x) + 5, y(s.y) + 5) for s in spots]
    for spot in spots:
        width = LETTER * len(spot.label)
        for dx, dy, left in _AROUND if spot.label else ():
            begin, base = x(spot.x) + dx - left * width, y(spot.y) + dy
            box = (begin, base - 10, begin + width, base + 3)
            inside = begin >= LEFT and box[2] <= WIDTH and box[1] >= y.end - 8 and box[3] <= y.start
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                yield text(begin, base, spot.label, kind="muted")
                break


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _swatch(each: Series) -> str:
    return f'<path d="M0,8h20" stroke="var(--{each.colour})" stroke-width="1.5"/>' + _marker(each, False, 10, 8)
