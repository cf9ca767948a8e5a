"""Docstrings as Markdown: reST's double backticks, indented formulas, and the sections of Google's style."""

from __future__ import annotations

import inspect
import re
import textwrap

SECTIONS = {"Args": "Arguments", "Attributes": "Attributes", "Returns": "Returns", "Raises": "Raises"}
NOTE = "<!-- written by docs/scripts/write_reference.py, from the code; change the code instead -->\n"


def inline(text: str) -> str:
    """A sentence or two of a docstring, on one line."""
    return " ".join(text.replace("``", "`").split())


def summary(doc: str | None) -> str:
    """The first paragraph of a docstring."""
    return inline(inspect.cleandoc(doc or "").split("\n\n")[0])


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return inline(text).replace("|", "\\|")


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown; columns that are empty in all rows are left out."""
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    lines = [[head[i] for i in kept], ["---"] * len(kept), *([row[i] for i in kept] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def markdown(doc: str | None) -> str:
    """A whole docstring: paragraphs, formulas as they stand, and a table for each section of Google's style."""
    parts = [_paragraph(part) for part in re.split(r"\n\n+", inspect.cleandoc(doc or ""))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _paragraph(part: str) -> str:
    name = part.split(":\n")[0]
    if name in SECTIONS:
        return f"**{SECTIONS[name]}**\n\n{_section(part[len(name) + 2 :])}"
    if name == "Example":
        return f"```pycon\n{textwrap.dedent(part[len(name) + 2 :])}\n```"
    if part.startswith("    "):
        return f"```text\n{textwrap.dedent(part)}\n```"
    return inline(part)


def _section(text: str) -> str:
    text = textwrap.dedent(text)
    items = re.split(r"\n(?=\S)", text)
    pairs = [re.match(r"([\w`, ]+): (.*)", item, re.DOTALL) for item in items]
    if not all(pairs):
        return inline(text)
    rows = [(f"`{pair[1]}`" if "`" not in pair[1] else inline(pair[1]), cell(pair[2])) for pair in pairs if pair]
    return table(("name", "meaning"), rows).rstrip()
