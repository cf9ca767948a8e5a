"""Python's search for cycles of objects, which goes over all that there are again and again."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def without_collection() -> Iterator[None]:
    """Inside the block no search is made: what is made there by the million (rows, clients, records) has no cycles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def leaving_out_what_exists(items: Iterable[T]) -> Iterator[T]:
    """The items one by one; until the last is done, a search leaves out what there was before the first.

    Of a million clients each search would take seconds, and they stay until the end.
    """
    gc.collect()  # or cycles that nobody holds would stay, too
    gc.freeze()
    try:
        yield from items
    finally:
        gc.unfreeze()
