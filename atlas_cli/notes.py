"""Notes on standard error, such as that a file of the cache is made anew; who asked for quiet gets none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


@contextmanager
def quietly() -> Iterator[None]:
    """Inside, notes are not shown, and a new ``Terminal`` shows nothing: for ``--quiet``, and calls from Python."""
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)


def is_quiet() -> bool:
    """Whether this is inside ``quietly``."""
    return _quiet.get()


def say(text: str) -> None:
    """Show a line on standard error."""
    if not is_quiet():
        print(text, file=sys.stderr, flush=True)
