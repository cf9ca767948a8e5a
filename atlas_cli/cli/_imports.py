"""Speeds up imports that take seconds."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


@contextmanager
def without_collecting() -> Iterator[None]:
    """Import torch and transformers inside, without garbage collection, which makes imports take a third longer.

    Objects that exist at the end of the first use are never collected: they stay until the process ends.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        _freeze_once()
        if was_enabled:
            gc.enable()


@cache  # to ask whether something is frozen takes a walk over all that is
def _freeze_once() -> None:
    gc.freeze()
