"""Amounts as bars on one axis, so that lengths can be compared through the whole chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atlas_cli.reports.charts.canvas import LETTER, WIDTH, box, legend, line, shortened, svg, text
from atlas_cli.reports.charts.scale import scale, tick_text

LABELS = 144  # the width of the names
ROW = 24
MAX_BARS = 30  # more fit on no screen


@dataclass(frozen=True)
class Bar:
    """A row: amounts by the colour name of what they are of, stacked in their order, and the text at its end."""

    label: str
    parts: Mapping[str, float]
    text: str


def bar_chart(bars: Sequence[Bar], names: Mapping[str, str], unit: str, label: str) -> str:
    """The chart.

    Args:
        names: what each colour stands for, in the order of the legend; those that no bar has are left out.
    """
    used = {colour for bar in bars for colour, amount in bar.parts.items() if amount}
    entries = [(box(0, 2, 16, 12, colour, _frame(colour)), name) for colour, name in names.items() if colour in used]
    head, top = legend(entries, 0)
    room = LETTER * max((len(bar.text) for bar in bars), default=0) + 8
    x = scale([sum(bar.parts.values()) for bar in bars], LABELS, WIDTH - room, zero=True)
    bottom = top + ROW * len(bars)
    body = [head]
    ticks = x.ticks if len(x.ticks) <= 4 else x.ticks[::2]
    for tick in ticks:
        body += [line(x(tick), top, x(tick), bottom), text(x(tick), bottom + 14, tick_text(tick), "middle", "muted")]
    for row, bar in enumerate(bars):
        y, end = top + ROW * row, 0.0
        body.append(text(LABELS - 8, y + 16, shortened(bar.label, LABELS - 8), "end"))
        for colour, amount in bar.parts.items():
            if amount:
                width = max(x(end + amount) - x(end), 0.5)
                body.append(box(x(end), y + 4, width, ROW - 8, colour, _frame(colour)))
                end += amount
        body.append(text(x(end) + 5, y + 16, bar.text))
    body.append(text(WIDTH - 2, bottom + 30, unit, "end", "muted"))
    return svg(bottom + 36, "".join(body), label)


def _frame(colour: str) -> str:
    """Parts are told apart by the gap between them; waiting is an empty frame."""
    return f' class="{"outline" if colour == "wait" else "edge"}"'
