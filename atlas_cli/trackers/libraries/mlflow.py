"""MLflow: a file mlflow.db beside the runs, or the server that MLFLOW_TRACKING_URI names.

`mlflow ui --backend-store-uri sqlite:///runs/mlflow.db` shows it, where the whole of MLflow is installed.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

from atlas_cli.config.flat import flat
from atlas_cli.trackers.libraries.contract import BaseTracker, TrackedRun

_TAG = "atlas.run"
_AT_ONCE = 100  # parameters that a server takes in one request
_LONGEST = 500  # letters of a parameter that every store takes
_STATUS = {"finished": "FINISHED", "interrupted": "KILLED"}


class Tracker(BaseTracker):
    """The experiment is MLFLOW_EXPERIMENT_NAME, else the config's name; the run has the tag ``atlas.run``.

    By that tag a resumed run goes on. Parameters are the config's keys; in a long value the end is left out.
    """

    needs: ClassVar[Sequence[str]] = ("mlflow", "sqlalchemy", "alembic")

    def start(self, run: TrackedRun) -> None:
        """Find the run by its tag, or create it with its parameters."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        for noisy in ("mlflow", "alembic"):  # creating a database tells every step of it
            logging.getLogger(noisy).setLevel(logging.WARNING)
        place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(run.runs / 'mlflow.db').as_posix()}"
        self._client = MlflowClient(tracking_uri=place)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.experiment
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known is not None else self._client.create_experiment(name)
        found = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{run.name}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        self._id = self._client.create_run(experiment, tags={_TAG: run.name}, run_name=run.name).info.run_id
        parameters = [Param(key, str(value)[:_LONGEST]) for key, value in flat(run.config).items()]
        for first in range(0, len(parameters), _AT_ONCE):
            self._client.log_batch(self._id, params=parameters[first : first + _AT_ONCE])

    def log(self, round: int, figures: Mapping[str, float]) -> None:
        """A metric for each figure."""
        self._metrics(figures, round)

    def finish(self, status: str, summary: Mapping[str, float]) -> None:
        """The summary as metrics named ``summary/...``, and the end."""
        self._metrics({f"summary/{name}": value for name, value in summary.items()}, 0)
        self._client.set_terminated(self._id, _STATUS.get(status, "FAILED"))

    def _metrics(self, figures: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        every = [Metric(name, value, now, step) for name, value in figures.items()]
        for first in range(0, len(every), _AT_ONCE):
            self._client.log_batch(self._id, metrics=every[first : first + _AT_ONCE])
