"""A table of amounts as cells, the larger the darker: layers by rounds, clients by classes."""

from __future__ import annotations

from collections.abc import Sequence

from atlas_cli.reports.charts.canvas import LETTER, WIDTH, box, shortened, svg, text

LABELS = 132
ROW = 20
WRITTEN = 7  # columns at most whose cells have their figure in them
UNDER_TEXT = 0.45  # opacity up to which text can be read on every colour


def cell_chart(
    rows: Sequence[tuple[str, Sequence[float | None]]],
    columns: Sequence[str],
    colour: str,
    label: str,
    x_name: str,
    largest: float,
) -> str:
    """The chart; a cell without a value is empty.

    Args:
        colour: a name of the palette.
        columns: their names; those that have no room are left out.
        largest: the amount of the fullest cell; where figures are written it is no fuller than ``UNDER_TEXT``.
    """
    written = len(columns) <= WRITTEN
    fullest = UNDER_TEXT if written else 1.0
    width = (WIDTH - LABELS) / max(len(columns), 1)
    body = []
    for number, (name, values) in enumerate(rows):
        y = ROW * number
        body.append(text(LABELS - 8, y + 14, shortened(name, LABELS - 8), "end"))
        for i, value in enumerate(values):
            if value is None:
                continue
            opacity = f' fill-opacity="{fullest * (0.06 + 0.94 * value / (largest or 1.0)):.2f}" class="edge"'
            body.append(box(LABELS + width * i, y, width, ROW, colour, opacity))
            if written:
                body.append(text(LABELS + width * (i + 0.5), y + 14, f"{value:.2f}", "middle"))
    bottom = ROW * len(rows)
    every = 1 + int(len(columns) * (LETTER * max(map(len, columns), default=1) + 6) / (WIDTH - LABELS))
    every = 1 if width > 46 else every
    for i, name in enumerate(columns):
        if i % every == 0:
            room = max(width * every, 24)
            body.append(text(LABELS + width * (i + 0.5), bottom + 15, shortened(name, room), "middle", "muted"))
    body.append(text(WIDTH - 2, bottom + 32, x_name, "end", "muted"))
    return svg(bottom + 38, "".join(body), label)
