"""Writes the checkpoints of a run in training."""

from __future__ import annotations

from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.federation import Federation
from atlas_cli.runs.checkpoint import Checkpoint, save_checkpoint
from atlas_cli.runs.record_files import RecordFiles


class RunCheckpoints:
    """Writes checkpoints when they are due, and holds a newer one ready in case the run stops in between."""

    def __init__(self, federation: Federation, files: RecordFiles) -> None:
        self.federation, self.files, self._state = federation, files, RunState(federation)
        self.pending: Checkpoint | None = None

    def after_round(self, number: int) -> None:
        """Write a checkpoint every ``checkpoints.every`` rounds, before training and at the end."""
        config = self.federation.config
        self.pending = Checkpoint(number, *self._state.capture(), self.files.seal())
        if number % config.checkpoints.every == 0 or number == config.training.rounds:
            self.write()

    def write(self) -> None:
        """Write the pending checkpoint: the state after the last whole round, never that inside a round."""
        if self.pending is not None:
            save_checkpoint(self.files.run, self.pending, self.federation.config.checkpoints.keep)
            self.pending = None
