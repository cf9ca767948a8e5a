"""Ctrl-C and SIGTERM: a run stops in order, and in an import a signal is held until the import has ended.

Many libraries catch every exception of an optional import, so that an interrupt in there is lost, or leaves a module
half made, which fails later with another error.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Self

_IMPORTING = "<frozen importlib._bootstrap>"
_AGAIN_SECONDS = 0.05
# Windows delivers no SIGTERM from another process; SIGBREAK is what one process can ask another with
_SIGNALS = ("SIGINT", "SIGTERM", "SIGBREAK")


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


class Stopping:
    """Handles these signals inside a ``with``; outside the main thread, where Python allows none, it does nothing.

    While ``waits`` is set, a first signal is only remembered until ``check``; else KeyboardInterrupt is raised at once.
    ``at_once``: a second one came.
    """

    def __init__(self) -> None:
        self.waits = False
        self.asked = False
        self.at_once = False
        self._before: dict[signal.Signals, Any] = {}

    def check(self) -> None:
        """Stop here if a signal came; called where the run may stop.

        Raises:
            KeyboardInterrupt: a signal came.
        """
        if self.asked:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if held_by_an_import(number, frame):
            return
        if not self.waits or self.asked:
            self.at_once = self.asked
            raise KeyboardInterrupt
        self.asked = True
        text = f"\n{signal.Signals(number).name}: stopping after this step; once more stops at once\n"
        with suppress(OSError):
            os.write(2, text.encode())  # a print could meet itself half done

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for each in (getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)):
                if signal.getsignal(each) != signal.SIG_IGN:  # what nohup and shells ignore stays ignored
                    self._before[each] = signal.signal(each, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
