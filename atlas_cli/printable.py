"""Text from data, file names and configs, made safe to show: what would steer a terminal is written as its escape."""

from __future__ import annotations

import re
from collections.abc import Iterable

# C0 and C1 controls but tab and line feed; marks, embeddings, overrides and isolates of bidirectional text (Unicode
# Standard Annex 9), which show a text in another order than it has; line separators; surrogates, which nothing encodes.
_STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


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
