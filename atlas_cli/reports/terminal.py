"""The console that every command writes to: texts are shown as they are, whatever they hold and wherever they go."""

from __future__ import annotations

import textwrap
from contextlib import suppress
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.status import Status
from rich.text import Text

from atlas_cli.notes import is_quiet
from atlas_cli.printable import printable

SPINNER = "line"  # ASCII: consoles of any code page show it


def busy(what: str) -> Status:
    """Show on a terminal's standard error what is being done, inside a ``with``; nothing in a file or a pipe."""
    return Terminal(stderr=True).status(what, spinner=SPINNER)


class Terminal(Console):
    """A rich console on which a name or a label is plain text.

    ``[spam]`` in a label is no markup, ``:smile:`` no picture, a number has no colour of its own; control characters
    are escaped. Options are those of ``rich.console.Console``.
    """

    def __init__(self, **options: Any) -> None:
        quiet = options.pop("quiet", False) or is_quiet()
        super().__init__(markup=False, emoji=False, highlight=False, quiet=quiet, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Every string that rich shows passes here: lines, cells, titles and captions."""
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> None:
        """Called when a reader is gone, after which nothing is written; rich would end the program without a word.

        Raises:
            BrokenPipeError: always.
        """
        with suppress(SystemExit):
            super().on_broken_pipe()
        raise BrokenPipeError("nobody reads standard output any more")

    def say(self, text: str, style: str | None = None) -> None:
        """Print a text: on a terminal in lines of its width with whole words, elsewhere in one line.

        What stands after ``next: `` is a command to copy, and stays on one line.
        """
        if self.is_terminal and not self.is_jupyter:
            text = "\n".join(wrapped(line, self.width) for line in printable(text).split("\n"))
        self.print(text, style=style, soft_wrap=True)


def wrapped(line: str, width: int) -> str:
    """A line in lines of a width, whose words stay whole; all but the first stand under its text."""
    text, mark, command = line.partition("next: ")
    margin = " " * (len(line) - len(line.lstrip()))
    lines = textwrap.wrap(
        text.strip(),
        max(20, width),
        initial_indent=margin,
        subsequent_indent=f"{margin}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    if mark and lines and cell_len(f"{lines[-1]} {mark}{command}") <= width:
        lines[-1] += f" {mark}{command}"
    elif mark:
        lines.append(f"{margin}{mark}{command}")
    return "\n".join(lines) or line
