"""All trackers of a run: told of every round, and left out with a line as soon as they fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from atlas_cli import discovery
from atlas_cli.errors import ConfigError, OutputError
from atlas_cli.extras import EXTRAS, install_command
from atlas_cli.plugins import load_class
from atlas_cli.printable import on_one_line
from atlas_cli.reports.summary import Record
from atlas_cli.storage.secrets import mask
from atlas_cli.trackers.figures import memory_figures, round_figures, run_figures
from atlas_cli.trackers.in_a_thread import InAThread
from atlas_cli.trackers.libraries.contract import BaseTracker, TrackedRun

PACKAGE = "trackers.libraries"
START_SECONDS = 60.0
FINISH_SECONDS = 60.0
EARLY_SECONDS = 10.0  # where a run failed or was interrupted, and somebody waits for the end
_SHOWN = 200  # letters of an error


def load_trackers(names: Sequence[str]) -> dict[str, BaseTracker]:
    """The trackers of a config.

    Raises:
        ConfigError: no such tracker, one that breaks its contract, or one whose library is not installed.
    """
    found = {}
    for number, name in enumerate(names):
        key = f"trackers[{number}]"
        tracker = load_class(PACKAGE, name, "Tracker", BaseTracker, key=key)
        if missing := [module for module in tracker.needs if find_spec(module) is None]:
            ours = discovery.find(PACKAGE, name).package is None and name in EXTRAS
            how = install_command(name) if ours else "install it"
            raise ConfigError(f"{name} needs {' and '.join(missing)}: {how}, or take {name} out", key=key)
        found[name] = tracker()
    return found


class Trackers:
    """The trackers of one run; every method returns, whatever they do.

    Args:
        note: shows a line.
    """

    def __init__(self, trackers: Mapping[str, BaseTracker], note: Callable[[str], None]) -> None:
        self.note = note
        self.metrics: list[Record] = []
        self.running = [InAThread(name, tracker) for name, tracker in trackers.items()]

    def start(self, run: TrackedRun, before: Sequence[Record]) -> None:
        """Begin; a library may take a while until it has found its server.

        Args:
            before: metrics records of rounds before this process, for the summary.
        """
        self.metrics += before
        for each in self.running:
            each.call_and_wait("start", partial(each.tracker.start, run), START_SECONDS)
        self._leave_out()

    def after_round(self, rows: Sequence[Record], memory: Record | None) -> None:
        """A round is done: nobody waits for what trackers make of it.

        Args:
            rows: its metrics records.
            memory: memory.json, in the round that it was measured in.
        """
        self._leave_out()
        self.metrics += rows
        figures = round_figures(rows) | memory_figures(memory)
        for each in self.running if rows else ():
            each.call("log", partial(each.tracker.log, rows[0]["round"], figures))

    def finish(self, status: str, memory: Record | None, seconds: float | None) -> None:
        """The run has ended; ``seconds``: how long it took, all its processes together."""
        summary = run_figures(self.metrics, memory, seconds)
        patience = FINISH_SECONDS if status == "finished" else EARLY_SECONDS
        for each in self.running:
            each.call_and_wait("finish", partial(each.tracker.finish, status, summary), patience)
        self._leave_out()
        self.running = []

    def _leave_out(self) -> None:
        """Say which have failed since the last time."""
        for each in [one for one in self.running if one.failed is not None]:
            why = on_one_line(mask(each.failed or ""))
            short = why if len(why) <= _SHOWN else f"{why[:_SHOWN]}..."
            with suppress(OutputError):  # the run itself says that its disk is full
                self.note(
                    f"warning: tracker {each.name} is left out from here on: {short} (the run goes on without it)"
                )
            self.running.remove(each)


def tracked_run(folder: Path, experiment: str, config: Mapping[str, Any], done: int | None) -> TrackedRun:
    """What trackers are told of a run when it starts."""
    whole = folder.resolve()
    return TrackedRun(whole.name, experiment, whole, whole.parent, config, done)
