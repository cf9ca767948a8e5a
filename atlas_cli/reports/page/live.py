"""The report of a run that goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from atlas_cli.errors import OutputError
from atlas_cli.reports.page.records import RunRecords
from atlas_cli.reports.page.report import FILE, page_of
from atlas_cli.reports.summary import Record
from atlas_cli.runs.directory import RunDirectory

SHARE = 0.01  # of the run's time that the page may take


class LiveReport:
    """report.html while the run is computed: written again, in one step, after every round with an evaluation.

    It is made of metrics alone, which are at hand, and so costs milliseconds; where a page has grown expensive it is
    written less often, so that it never takes more than ``SHARE`` of the time.

    Args:
        manifest: as the run, or its part in this process, started with it.
        before: metrics records of rounds before this process.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        run: RunDirectory,
        manifest: Mapping[str, Any],
        before: Sequence[Record] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.run, self.manifest, self.before, self.clock = run, manifest, before, clock
        self.written, self.cost = clock(), 0.0

    def after_round(self, metrics: Sequence[Record]) -> None:
        """Write the page, where the last of these records has an evaluation and it is not too early.

        A disk that is full ends a run when it needs room for its records, and not here.
        """
        began = self.clock()
        if not metrics or not metrics[-1]["test"] or began - self.written < self.cost / SHARE:
            return
        self._write(self.manifest, metrics, _now())
        self.written = self.clock()
        self.cost = self.written - began

    def stopped(self, manifest: Mapping[str, Any], metrics: Sequence[Record]) -> None:
        """Write the page of a run that was stopped after its last round: of metrics, so that nobody waits for it.

        Args:
            manifest: as the run ended.
        """
        self._write(manifest, metrics, None)

    def _write(self, manifest: Mapping[str, Any], metrics: Sequence[Record], written: str | None) -> None:
        known = [*self.before, *metrics]
        records = RunRecords(self.run.path.name, str(self.run.path), manifest, known, going_on=True)
        with suppress(OutputError):
            self.run.write_text(FILE, page_of(records, written=written), sync=False)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} (UTC)"
