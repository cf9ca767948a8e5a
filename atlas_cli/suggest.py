"""The tail of an error message that names the nearest valid word."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """``; did you mean rank?`` when something is near, else the list of what is valid."""
    options = sorted(valid)
    near = get_close_matches(word, options, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else f"; expected one of: {', '.join(options)}"
