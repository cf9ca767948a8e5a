"""Weights & Biases: files in the run directory, under wandb/, and online where WANDB_API_KEY or WANDB_MODE says so.

`wandb sync RUN/wandb/offline-run-*` uploads what was told offline.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import ClassVar

from atlas_cli.trackers.libraries.contract import BaseTracker, TrackedRun


class Tracker(BaseTracker):
    """The project is WANDB_PROJECT, else the experiment's name; the run is called after the run directory.

    A resumed run goes on under its name. The command line, the terminal, git and the code are not recorded: the run
    directory has them, with secrets masked.
    """

    needs: ClassVar[Sequence[str]] = ("wandb",)

    def start(self, run: TrackedRun) -> None:
        """Begin, or go on: runs are known by the name of their directory."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        online = "online" if os.environ.get("WANDB_API_KEY") else "offline"
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or run.experiment,
            dir=os.environ.get("WANDB_DIR") or str(run.folder),
            id=run.name,
            name=run.name,
            mode=os.environ.get("WANDB_MODE") or online,
            config=dict(run.config),
            allow_val_change=True,
            resume="allow",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_code=True,
                disable_git=True,
                x_disable_meta=True,
                x_disable_stats=True,
            ),
        )
        self._run.define_metric("round")
        self._run.define_metric("*", step_metric="round")

    def log(self, round: int, figures: Mapping[str, float]) -> None:
        """One record, whose x axis is the round."""
        self._run.log({"round": round, **figures})

    def finish(self, status: str, summary: Mapping[str, float]) -> None:
        """The summary, and the end of the upload."""
        self._run.summary.update({"status": status, **summary})
        self._run.finish(exit_code=0 if status == "finished" else 1)
