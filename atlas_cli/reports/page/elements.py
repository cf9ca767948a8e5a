"""What the page is made of: tables, figures with their data, definitions; what comes from data is escaped."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

from atlas_cli.reports.charts.canvas import standalone
from atlas_cli.reports.escaped import escape
from atlas_cli.units import format_number

MAX_ROWS = 500  # a page of many thousands opens in no browser
FOLDED = 30  # a table with more rows is folded away
LONG = 18  # letters of a word; longer ones are broken
FEW = 4  # columns that a phone can show side by side; of more each row becomes a card there
MANY = 7  # columns that a tablet can show in full size

T = TypeVar("T")


@dataclass(frozen=True)
class Link:
    """A cell that leads to a file beside the page."""

    name: str
    file: str


Cell = str | int | float | Link | None


@dataclass(frozen=True)
class Column:
    """A column of a table; numbers stand right, texts left."""

    name: str
    number: bool = False


def words(name: str) -> Column:
    """A column of texts."""
    return Column(name)


def figures(name: str) -> Column:
    """A column of numbers."""
    return Column(name, number=True)


def shown(cell: Cell) -> str:
    """A cell as a reader sees it: a number of three decimals, counts with separators, nothing as a dash."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return format_number(cell) if cell == 0 or abs(cell) >= 0.001 else f"{cell:.2g}"
    if isinstance(cell, Link):
        return cell.name
    return f"{cell:,}" if isinstance(cell, int) else cell


def table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], caption: str, file: str = "") -> str:
    """A table with a caption, its first column the name of each row.

    Of many rows it is folded away, and of very many cut; what is left out is said, with the ``file`` that has all.
    """
    rows = list(rows)
    if not rows:
        return ""
    head = "".join(f'<th scope="col"{_kind(column)}>{escape(column.name)}</th>' for column in columns)
    body = "".join(f"<tr>{_row(columns, row)}</tr>\n" for row in rows[:MAX_ROWS])
    layout = ' class="cards wide"' if len(columns) > MANY else ' class="cards"' if len(columns) > FEW else ""
    made = (
        f"<table{layout}><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>\n{body}</tbody></table>"
    )
    if len(rows) <= FOLDED:
        return made
    where = f", {file} has all" if file else ""
    cut = f"; the first {MAX_ROWS:,} are shown{where}" if len(rows) > MAX_ROWS else ""
    return f"<details><summary>{escape(caption)}: {len(rows):,} rows{cut}</summary>{made}</details>"


def _row(columns: Sequence[Column], row: Sequence[Cell]) -> str:
    first, *rest = zip(columns, row, strict=True)
    cells = "".join(f'<td{_kind(c, shown(cell))} data-name="{escape(c.name)}">{_inside(cell)}</td>' for c, cell in rest)
    return f'<th scope="row"{_kind(first[0], shown(first[1]))}>{_inside(first[1])}</th>{cells}'


def _inside(cell: Cell) -> str:
    words = escape(shown(cell))
    return f'<a href="{escape(quote(cell.file))}">{words}</a>' if isinstance(cell, Link) else words


def _kind(column: Column, cell: str = "") -> str:
    """Numbers stand right; a word that is too long for a line may be broken anywhere."""
    kinds = ["n"] if column.number else []
    if max(map(len, cell.split()), default=0) > LONG:
        kinds.append("long")
    return f' class="{" ".join(kinds)}"' if kinds else ""


def figure(
    picture: str,
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    file: str = "",
    below: str = "",
) -> str:
    """A chart under its caption, with its data as a table and both as files.

    ``picture`` is trusted, as charts escape their texts; the rest is escaped.

    Args:
        file: which record has all of the data, where there may be more than is shown.
        below: the caption of the table, where it stands open below the chart; else it opens on a click.
    """
    name = re.sub(r"[^a-z0-9]+", "-", caption.partition(".")[0].lower()).strip("-")[:60] or "figure"
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerows([[column.name for column in columns], *rows[:MAX_ROWS]])
    data = table(columns, rows[:FOLDED], below or caption)
    where = f"; {file} has all" if file else ""
    more = f"<p>The first {FOLDED} of {len(rows):,} rows{escape(where)}.</p>" if len(rows) > FOLDED else ""
    files = (
        f'<p class="files">{_download(standalone(picture), "image/svg+xml", f"{name}.svg", "SVG")} '
        f"{_download(sheet.getvalue(), 'text/csv', f'{name}.csv', 'CSV')}</p>"
    )
    around = f"{data}{more}{files}" if below else f"<details><summary>Data</summary>{data}{more}{files}</details>"
    layout = ' class="open"' if below else ""
    return f"<figure{layout}><figcaption>{escape(caption)}</figcaption>{picture}{around}</figure>"


def _download(content: str, kind: str, name: str, label: str) -> str:
    packed = base64.b64encode(content.encode()).decode()
    return f'<a download="{name}" href="data:{kind};charset=utf-8;base64,{packed}">{label}</a>'


def figures_beside(made: Iterable[str]) -> str:
    """Figures side by side where there is room."""
    return f'<div class="figures">{"".join(made)}</div>'


def definitions(rows: Mapping[str, str]) -> str:
    """Name and value pairs."""
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>\n" for k, v in rows.items()) + "</dl>"


def paragraph(sentence: str) -> str:
    """A paragraph; nothing for an empty one."""
    return f"<p>{escape(sentence)}</p>" if sentence else ""


def notes(lines: Iterable[str]) -> str:
    """A list of remarks; nothing where there are none."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def folded(summary: str, content: str) -> str:
    """Content that opens on a click."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def thinned(points: Sequence[T], most: int) -> Sequence[T]:
    """Every k-th of very many points, and always the last."""
    step = -(-len(points) // most)
    return points if step <= 1 else [*points[:-1:step], points[-1]]
