"""A tracker in a thread of its own, so that one that fails or hangs costs a run no more than a line."""

from __future__ import annotations

import io
import queue
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout

from atlas_cli.trackers.libraries.contract import BaseTracker

_LOOK = 0.2  # seconds: where Windows waits for a lock, no signal is heard


class InAThread:
    """Calls the hooks of one tracker, in order.

    Attributes:
        failed: why it is called no more: what a hook raised, or that one did not end in time; else None.
    """

    def __init__(self, name: str, tracker: BaseTracker) -> None:
        self.name, self.tracker = name, tracker
        self.failed: str | None = None
        self._calls: queue.SimpleQueue[tuple[str, Callable[[], None], threading.Event]] = queue.SimpleQueue()
        # a daemon: at the end of the program nobody waits for one that hangs
        threading.Thread(target=self._work, name=f"tracker {name}", daemon=True).start()

    def call(self, hook: str, what: Callable[[], None]) -> threading.Event:
        """Have a hook called when those before it are done; the event is set then."""
        done = threading.Event()
        if self.failed is None:
            self._calls.put((hook, what, done))
        else:
            done.set()
        return done

    def call_and_wait(self, hook: str, what: Callable[[], None], seconds: float) -> None:
        """Have a hook called, and wait so long for it; what the library prints on standard output is not shown."""
        done, until = self.call(hook, what), time.monotonic() + seconds
        with redirect_stdout(io.StringIO()):
            while not done.wait(_LOOK):
                if time.monotonic() > until:
                    self.failed = self.failed or f"{hook} has not ended after {seconds:g} s"
                    return

    def _work(self) -> None:
        while True:
            hook, what, done = self._calls.get()
            try:
                if self.failed is None:
                    what()
            except BaseException as error:  # a library may end the program, too, and here it must not
                self.failed = f"{hook}: {type(error).__name__}: {error}"
            finally:
                done.set()
            if hook == "finish":
                return
