"""Python's search for cycles of objects, which goes over all that there are again and again."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
MANY = 200_000  # objects of which a search takes a tenth of a second or so


@contextmanager
def without_collection() -> Iterator[None]:
    """Inside the block no search is made: what is made there by the million (rows, clients, records) has no cycles.

    Where many objects were made, they count as old after it, so that only a search of all goes over them.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if gc.get_count()[0] > MANY and not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()  # to the oldest, without a look at each
            gc.enable()


def leaving_out_what_exists(items: Iterable[T]) -> Iterator[T]:
    """The items one by one; until the last is done, a search leaves out what there was before the first.

    Of a million clients each search would take seconds, and they stay until the end. So do cycles that nobody holds any
    more, but for young ones: to find old ones would take such a search, and earlier ones have found most.
    """
    gc.collect(1)
    gc.freeze()
    try:
        yield from items
    finally:
        gc.unfreeze()
