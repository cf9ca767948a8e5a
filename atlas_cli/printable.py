"""Text from data, file names and configs, made safe to show: what would steer a terminal is written as its escape.

Commands that a user may type have the quotes that the system's shell takes.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable

# C0 and C1 controls but tab and line feed; marks, embeddings, overrides and isolates of bidirectional text (Unicode
# Standard Annex 9), which show a text in another order than it has; line separators; surrogates, which nothing encodes.
_STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_WINDOWS = os.name == "nt"
# what cmd and PowerShell both take as it is: a comma parts words in PowerShell
_BARE = re.compile(r"[A-Za-z0-9_.:=+/\\-]+")


def printable(text: str) -> str:
    r"""Text with control and bidirectional control characters as Python escapes, such as ``\x1b`` and ``\u202e``."""
    return _STEERS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def on_one_line(text: str) -> str:
    r"""``printable`` for a text that must stay on its line: tab and line feed are escaped, too."""
    return printable(text).replace("\t", r"\t").replace("\n", r"\n")


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first names, and how many more there are: ``a, b, c and 4 more``."""
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most:,} more" if len(every) > most else "")


def as_typed(*words: str) -> str:
    r"""A command as it is typed at the system's shell: ``'my run'``, and on Windows ``"my run"`` and ``runs\it``.

    Python's ``shlex`` writes for POSIX alone: cmd takes its single quotes, which it puts around each backslash, as a
    part of the name.
    """
    return " ".join(map(_for_windows, words)) if _WINDOWS else shlex.join(words)


def _for_windows(word: str) -> str:
    if _BARE.fullmatch(word):
        return word
    # a backslash before a quote is doubled, as programs on Windows read it
    return '"' + re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), word) + '"'
