"""A table once, as Markdown, as LaTeX (booktabs), as CSV, or for the terminal."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from atlas_cli.printable import on_one_line, printable
from atlas_cli.reports import fitted
from atlas_cli.units import format_number

Cell = str | int | float | None
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "[": "{[}",  # after a line's end it would begin an option
    "]": "{]}",
    "*": "{*}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_MARKDOWN = re.compile(r"([\\|`*_<>\[\]~])")


@dataclass(frozen=True)
class Column:
    """A column: figures stand right; ``spare`` as of ``fitted.Column``."""

    name: str
    figures: bool = False
    spare: int = 0


@dataclass(frozen=True)
class Sheet:
    """A table: what it is called as a file, its title, columns, rows, and sentences below it."""

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()


def shown(cell: Cell) -> str:
    """A cell for readers: three decimals (more of small ones), thousands apart, a dash for nothing."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return format_number(cell) if cell == 0 or abs(cell) >= 0.001 else f"{cell:.2g}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def markdown(sheet: Sheet) -> str:
    """As GitHub and most others read it."""
    lines = [f"### {_in_markdown(sheet.title)}", ""]
    lines.append(_row([_in_markdown(column.name) for column in sheet.columns]))
    lines.append(_row(["---:" if column.figures else "---" for column in sheet.columns]))
    lines += [_row([_in_markdown(shown(cell)) for cell in row]) for row in sheet.rows]
    for note in sheet.notes:
        lines += ["", _in_markdown(note)]
    return "\n".join(lines) + "\n"


def latex(sheet: Sheet) -> str:
    r"""A ``table`` with its caption; the preamble needs ``\usepackage{booktabs}``."""
    kinds = "".join("r" if column.figures else "l" for column in sheet.columns)
    caption = " ".join([f"{sheet.title}.", *(_sentence(note) for note in sheet.notes)])
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{in_latex(caption)}}}", rf"\label{{tab:{sheet.name}}}"]
    lines += [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule"]
    lines += [_line([column.name for column in sheet.columns]), r"\midrule"]
    lines += [_line([shown(cell) for cell in row]) for row in sheet.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def csv_text(sheet: Sheet) -> str:
    """Names of columns, then rows; figures with all their digits, nothing where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in sheet.columns])
    writer.writerows([["" if cell is None else cell for cell in row] for row in sheet.rows])
    return text.getvalue()


def terminal(sheet: Sheet, width: int) -> Table:
    """A table that fits the terminal."""
    columns = [
        fitted.Column(
            column.name,
            [shown(row[i]) for row in sheet.rows],
            right=column.figures,
            folds=not column.figures,
            spare=column.spare,
        )
        for i, column in enumerate(sheet.columns)
    ]
    return fitted.fitted_table(columns, width, sheet.title, "\n".join(sheet.notes))


FORMATS: Mapping[str, tuple[str, Callable[[Sheet], str]]] = {
    "markdown": (".md", markdown),
    "latex": (".tex", latex),
    "csv": (".csv", csv_text),
}


def in_latex(text: str) -> str:
    """Text in which no character is a command."""
    escaped = "".join(_LATEX.get(character, character) for character in on_one_line(text))
    return escaped.replace("--", "-{}-").replace("--", "-{}-")


def _in_markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", printable(text).replace("\n", " "))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _line(cells: Sequence[str]) -> str:
    return f"{' & '.join(map(in_latex, cells))} \\\\"


def _sentence(note: str) -> str:
    return f"{note[0].upper()}{note[1:]}."
