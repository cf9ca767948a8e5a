"""What a tracker must do. One file a tracker in this folder; its class is named ``Tracker``.

The hooks are called one after the other, in a thread that the tracker has for itself. What one raises is shown in one
line, and the tracker is left out from there on; the run goes on. A library is imported in a hook, never at the top.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True)
class TrackedRun:
    """The run that a tracker is told of.

    Attributes:
        name: of the run directory: unlike that of any other run beside it.
        experiment: what the config calls it.
        folder: the run directory; ``runs``: the folder that it is in. Both are whole paths.
        config: the resolved config, as JSON types.
        resumed_after: the last round that is done already, where the run goes on; else None.
    """

    name: str
    experiment: str
    folder: Path
    runs: Path
    config: Mapping[str, Any]
    resumed_after: int | None


class BaseTracker(ABC):
    """A tracker.

    Attributes:
        needs: the modules that must be installed.
    """

    needs: ClassVar[Sequence[str]] = ()

    @abstractmethod
    def start(self, run: TrackedRun) -> None:
        """Begin, or go on with what this run has told before where the library can."""

    @abstractmethod
    def log(self, round: int, figures: Mapping[str, float]) -> None:
        """A round is done: its figures by name, such as ``questions/test/accuracy``; 0 is before training."""

    @abstractmethod
    def finish(self, status: str, summary: Mapping[str, float]) -> None:
        """The run is "finished", "failed" or "interrupted", with the figures of all of it."""
