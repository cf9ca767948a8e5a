"""Tables that fit the terminal: no figure is cut; columns of less interest are left out, and the table says which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.table import Table

FOLDED = 16  # characters that a column of texts gets at least, when it is folded over lines


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: may have several lines.
        cells: a text for each row.
        right: figures stand on the right, texts on the left.
        folds: a text that may go on in the next line; figures never do.
        spare: columns with the highest number are left out first, all of them, on a narrow terminal; 0: never.
    """

    heading: str
    cells: Sequence[str]
    right: bool = False
    folds: bool = False
    spare: int = 0

    @property
    def name(self) -> str:
        """The heading on one line."""
        return " ".join(self.heading.split())

    @property
    def natural(self) -> int:
        """Characters of the longest line."""
        return max(cell_len(line) for text in (self.heading, *self.cells) for line in text.splitlines() or [""])

    @property
    def least(self) -> int:
        """Characters below which it would be cut."""
        words = max((cell_len(word) for word in self.heading.split()), default=0)
        return min(self.natural, max(FOLDED, words)) if self.folds else self.natural


def fitted_table(
    columns: Sequence[Column],
    width: int,
    title: str | None = None,
    caption: str = "",
    bold: int | None = None,
) -> Table:
    """A table of at most ``width`` characters, if columns that may be left out suffice for that.

    Args:
        caption: below the table; which columns were left out comes last.
        bold: the row to set off.
    """
    shown = list(columns)
    while sum(column.least for column in shown) + len(shown) - 1 > width:
        most = max(column.spare for column in shown)
        if most == 0:
            break
        shown = [column for column in shown if column.spare < most]
    if left_out := [column.name for column in columns if column not in shown]:
        note = f"left out for the width of {width}: {', '.join(left_out)}; --json has all"
        caption = f"{caption}\n{note}" if caption else note
    table = Table(title=title, caption=caption or None, **layout())
    for column in shown:
        table.add_column(
            column.heading,
            justify="right" if column.right else "left",
            no_wrap=not column.folds,
            overflow="fold",
            min_width=column.least,
        )
    for number, row in enumerate(zip(*(column.cells for column in shown), strict=True)):
        table.add_row(*row, style="bold" if number == bold else None)
    return table


def layout() -> dict[str, Any]:
    """How all tables look: narrow enough for a terminal of 80 characters."""
    return {
        "box": box.SIMPLE_HEAD,
        "padding": 0,
        "show_edge": False,
        "title_justify": "left",
        "caption_justify": "left",
    }
