"""The checkpoints of a run that trains."""

from __future__ import annotations

from atlas_cli.experiment.saved_clients import Copies
from atlas_cli.experiment.saved_state import capture
from atlas_cli.federation.federation import Federation
from atlas_cli.runs.checkpoint import Checkpoint, save_checkpoint
from atlas_cli.runs.record_files import RecordFiles


class RunCheckpoints:
    """Writes the checkpoints that are due, and holds a newer one ready for a run that stops in between."""

    def __init__(self, federation: Federation, files: RecordFiles) -> None:
        self.federation, self.files, self._copies = federation, files, Copies()
        self.pending: Checkpoint | None = None

    def after_round(self, number: int) -> None:
        """Every ``checkpoints.every`` rounds, before training and at the end."""
        config = self.federation.config
        self.pending = Checkpoint(number, *capture(self.federation, self._copies), self.files.seal())
        if number % config.checkpoints.every == 0 or number == config.training.rounds:
            self.write()

    def write(self) -> None:
        """Write what is pending: the state after the last whole round, never that inside a round."""
        if self.pending is not None:
            save_checkpoint(self.files.run, self.pending, self.federation.config.checkpoints.keep)
            self.pending = None
