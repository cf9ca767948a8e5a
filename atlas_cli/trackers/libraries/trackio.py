"""Trackio: a local database, in TRACKIO_DIR or where Trackio keeps it. `trackio show` opens the dashboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from atlas_cli.trackers.libraries.contract import BaseTracker, TrackedRun


class Tracker(BaseTracker):
    """The project is the experiment's name; the run is called after the run directory, and goes on under that name."""

    needs: ClassVar[Sequence[str]] = ("trackio",)

    def start(self, run: TrackedRun) -> None:
        """Begin, or go on; nothing of the machine is watched."""
        import trackio

        self._run = trackio.init(
            project=run.experiment,
            name=run.name,
            config=dict(run.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self._last = run.resumed_after or 0

    def log(self, round: int, figures: Mapping[str, float]) -> None:
        """One record at the step of the round."""
        self._run.log(dict(figures), step=round)
        self._last = round

    def finish(self, status: str, summary: Mapping[str, float]) -> None:
        """A last record with the summary, named ``summary/...``."""
        named = {f"summary/{name}": value for name, value in summary.items()}
        self._run.log({"summary/status": status, **named}, step=self._last)
        self._run.finish()
