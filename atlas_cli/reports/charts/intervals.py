"""Estimates with their intervals on one axis, each beside what chance would give where that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from atlas_cli.reports.charts.canvas import WIDTH, line, number, shortened, svg, text
from atlas_cli.reports.charts.scale import scale, tick_text

LABELS = 150
ROW = 24


@dataclass(frozen=True)
class Estimate:
    """A row; ``chance`` is None where there is no such figure."""

    label: str
    value: float
    low: float
    high: float
    text: str
    chance: float | None = None


def interval_chart(rows: Sequence[Estimate], colour: str, x_name: str, label: str) -> str:
    """The chart; ``colour`` is a name of the palette."""
    ends = [0.0, 1.0, *(end for row in rows for end in (row.low, row.high))]
    x = scale(ends, LABELS, WIDTH - 52, zero=True)
    bottom = ROW * len(rows)
    body = []
    for tick in x.ticks:
        body += [line(x(tick), 0, x(tick), bottom), text(x(tick), bottom + 15, tick_text(tick), "middle", "muted")]
    for place, row in enumerate(rows):
        y = ROW * place + ROW / 2
        paint = f'stroke="var(--{colour})" stroke-width="2"'
        body.append(text(LABELS - 8, y + 4, shortened(row.label, LABELS - 8), "end"))
        body.append(f'<path d="M{number(x(row.low))},{number(y)}H{number(x(row.high))}" {paint}/>')
        body.append(f'<circle cx="{number(x(row.value))}" cy="{number(y)}" r="4" fill="var(--{colour})"/>')
        if row.chance is not None:
            at = number(x(row.chance))
            body.append(f'<path d="M{at},{number(y - 8)}v16" stroke="var(--ink)" stroke-width="1.5"/>')
        body.append(text(WIDTH - 46, y + 4, row.text))
    body.append(text(WIDTH - 2, bottom + 32, x_name, "end", "muted"))
    return svg(bottom + 38, "".join(body), label)
