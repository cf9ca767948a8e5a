"""Ctrl-C, SIGTERM, Ctrl-Break: the first lets the step end and stops the run in order, the second stops it at once."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

from atlas_cli.interrupts import held_by_an_import

# Windows delivers no SIGTERM from another process; SIGBREAK is what one process can ask another with
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name))


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
            for each in _SIGNALS:
                if signal.getsignal(each) != signal.SIG_IGN:  # what nohup and shells ignore stays ignored
                    self._before[each] = signal.signal(each, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
