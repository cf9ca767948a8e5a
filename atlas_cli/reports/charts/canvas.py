"""The SVG elements that charts are made of; every text passes here and is escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping

from atlas_cli.reports.charts.palette import SHAPES, style
from atlas_cli.reports.escaped import escape

WIDTH = 420  # as wide as a phone shows at its true size, so that 12 units stay 12 pixels there
_VARIABLE = re.compile(r"var\(--([\w-]+)\)")
LETTER = 7.3  # the mean width of a letter in a wide font, to tell how much of a name fits


def number(value: float) -> str:
    """A coordinate in few characters."""
    return f"{value:.1f}".removesuffix(".0")


def shortened(name: str, width: float) -> str:
    """A name that fits into ``width``, its middle left out if it must be; the data beside a chart has all of it."""
    room = max(4, int(width / LETTER))
    if len(name) <= room:
        return name
    return f"{name[: room - room // 2 - 1]}…{name[len(name) - room // 2 :]}"


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    """A line of text at its baseline; what stands in the middle of a place near an edge is moved inside."""
    if anchor == "middle":
        half = LETTER * len(words) / 2
        x = max(half, min(x, WIDTH - half))
    place = f' text-anchor="{anchor}"' if anchor != "start" else ""
    of_kind = f' class="{kind}"' if kind else ""
    return f'<text x="{number(x)}" y="{number(y)}"{place}{of_kind}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "grid") -> str:
    """A straight line of the grid."""
    ends = f'x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"'
    return f'<line {ends} class="{kind}"/>'


def box(x: float, y: float, width: float, height: float, colour: str, more: str = "") -> str:
    """A filled rectangle; ``colour`` is a name of the palette."""
    place = f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"'
    return f'<rect {place} fill="var(--{colour})"{more}/>'


def legend(entries: list[tuple[str, str]], y: float) -> tuple[str, float]:
    """Swatches with their names, in as many rows as they take; also the height."""
    drawn, x, row = [], 0.0, 0
    for swatch, name in entries:
        words = shortened(name, WIDTH - 40)
        width = 30 + LETTER * len(words)
        if x and x + width > WIDTH:
            x, row = 0.0, row + 1
        place = f'<g transform="translate({number(x)} {number(y + 18 * row)})">'
        drawn.append(f"{place}{swatch}{text(24, 12, words)}</g>")
        x += width + 8
    return "".join(drawn), 18 * (row + 1) + 6 if entries else 0


def svg(height: float, body: str, label: str) -> str:
    """The whole picture; ``label`` is what a screen reader says."""
    return f'<svg viewBox="0 0 {WIDTH} {number(height)}" role="img" aria-label="{escape(label)}">{body}</svg>'


def standalone(picture: str) -> str:
    """The picture as a file of its own, with its colours and a background."""
    start, _, rest = picture.partition(">")
    paper = f'<style>{style()}</style><rect width="100%" height="100%" fill="var(--page)"/>'
    return start.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"') + f">{paper}{rest}"


def coloured(picture: str, colours: Mapping[str, str]) -> str:
    """The picture as a file of its own in these colours: for programs that know no variables, as those that papers are
    made with."""
    start, _, rest = picture.partition(">")
    paper = f'<style>{SHAPES}</style><rect width="100%" height="100%" fill="var(--page)"/>'
    size = f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}"'
    return _VARIABLE.sub(lambda found: colours[found[1]], start.replace("<svg", size) + f">{paper}{rest}")
