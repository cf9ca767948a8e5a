"""Characters that look like a space or a colon and are none for YAML: they come with text copied from a page."""

from __future__ import annotations

import re

_SPACES = {
    "\u00a0": "a no-break space",
    "\u2002": "a wide space",
    "\u2003": "a wide space",
    "\u2007": "a figure space",
    "\u2009": "a thin space",
    "\u200b": "a space of no width",
    "\u202f": "a narrow no-break space",
    "\u3000": "an ideographic space",
    "\ufeff": "a mark of the byte order",
}
_COLONS = {"\uff1a": "a full-width colon", "\ufe55": "a small colon"}
_ANY_SPACE = re.compile(f"[{''.join(_SPACES)}]")
_ANY = re.compile(f"[{''.join([*_SPACES, *_COLONS])}]")


def odd_character(text: str) -> str | None:
    """The first of them in a text, in words, with what to do; None where there is none."""
    found = _ANY.search(text)
    if found is None:
        return None
    char = found[0]
    name, wanted = (_SPACES[char], "a space") if char in _SPACES else (_COLONS[char], "':'")
    return f"{name} (U+{ord(char):04X}) where YAML wants {wanted}; type it anew"


def with_plain_spaces(text: str) -> str:
    """The text with a space for each that only looks like one."""
    return _ANY_SPACE.sub(" ", text)
