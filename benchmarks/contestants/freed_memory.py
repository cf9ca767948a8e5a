"""Memory of comparisons that are over, given back before the next begins."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress


def give_back_freed_memory() -> None:
    """Free the models that nobody holds any more, and let the system have their memory.

    Models under PEFT and Trainers are cycles of objects, which Python looks for too seldom: in what is freed it counts
    objects, and these are few but large. What is freed then is kept by glibc, in pieces that the models of the next
    comparison do not fit in. Where there is another C library, what it keeps is left to it.
    """
    gc.collect()
    if sys.platform == "linux":
        with suppress(AttributeError):  # musl has none
            ctypes.CDLL(None).malloc_trim(0)
