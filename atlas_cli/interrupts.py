"""Ctrl-C and SIGTERM while a module is being imported: held until the import has ended.

Many libraries catch every exception of an optional import, so that an interrupt in there is lost, or leaves a module
half made, which fails later with another error.
"""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_IMPORTING = "<frozen importlib._bootstrap>"
_AGAIN_SECONDS = 0.05


def held_by_an_import(number: int, frame: FrameType | None) -> bool:
    """Whether a handler was called inside an import; if so, the signal is sent again shortly, until it is not."""
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            again = threading.Timer(_AGAIN_SECONDS, _thread.interrupt_main, (number,))
            again.daemon = True
            again.start()
            return True
        frame = frame.f_back
    return False


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not held_by_an_import(number, frame):
        raise KeyboardInterrupt


@contextmanager
def interrupts_between_imports() -> Iterator[None]:
    """Inside, Ctrl-C raises KeyboardInterrupt as ever, but never in an import; only in the main thread."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield  # what somebody else has set up, or ignores, stays as it is
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
