"""The folders in a folder of runs, and what became of each run: none is left out, damaged or foreign as it may be."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atlas_cli.config.flat import NOT_COMPARED, differing, flat
from atlas_cli.errors import AtlasError, OutputError, ResourceError
from atlas_cli.printable import as_typed
from atlas_cli.reports.summary import GroupSummary, summarise
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.resumable import read_manifest
from atlas_cli.runs.run_lock import writer_of

STATES = ("finished", "running", "killed", "interrupted", "failed", "damaged", "foreign")
RESUME = ("atlas", "train", "--resume")


@dataclass(frozen=True)
class ListedRun:
    """A folder in a folder of runs.

    Attributes:
        folder: its name.
        state: how the run ended; "running": a process writes there; "killed": it says that it is running, and no
            process writes there; "damaged": its records cannot be read; "foreign": no run wrote it.
        problem: why it failed, what is damaged or lacking, or, where it stopped after its last round, how to end it;
            else None.
        started: in UTC; None where no manifest says it.
        seconds: of all its processes; before it has ended, of its rounds.
        rounds, planned: the last round on record, and how many there are to be.
        groups: every task group.
        config: as the manifest has it; empty where there is none.
    """

    folder: str
    path: Path
    state: str
    problem: str | None = None
    started: str | None = None
    seconds: float | None = None
    rounds: int | None = None
    planned: int | None = None
    groups: Sequence[GroupSummary] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bytes_up(self) -> int:
        """Of all clients and rounds, set-up included."""
        return sum(group.bytes_up for group in self.groups)

    @property
    def bytes_down(self) -> int:
        """As ``bytes_up``, from the server."""
        return sum(group.bytes_down for group in self.groups)


def list_runs(folder: Path) -> list[ListedRun]:
    """All folders in a folder of runs, those that started last first, then what is no run; hidden ones are passed over.

    Raises:
        ResourceError: the folder is not there, cannot be read, or is a run itself.
    """
    if (folder / "manifest.json").is_file():
        raise ResourceError(f"{folder} is a run directory; give the folder that it is in: {folder.parent}")
    try:
        found = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ResourceError(f"{folder}: cannot list the runs there: {why}; give a folder of runs") from None
    listed = [_listed(RunDirectory(folder / name)) for name in found]
    return sorted(listed, key=lambda run: (run.started or "", run.folder), reverse=True)


def differences(runs: Sequence[ListedRun]) -> dict[str, list[Any]]:
    """The config keys in which runs differ, with the value of each of the runs; None where one has no such key."""
    known = [i for i, run in enumerate(runs) if run.config]
    found = differing([runs[i].config for i in known], but=NOT_COMPARED)
    values = {key: dict(zip(known, each, strict=True)) for key, each in found.items()}
    return {key: [of_run.get(i) for i in range(len(runs))] for key, of_run in values.items()}


def _listed(run: RunDirectory) -> ListedRun:
    """One folder; nothing that is wrong with it is raised."""
    if not (run.path / "manifest.json").is_file():
        what = "of a sweep" if (run.path / "sweep.json").is_file() else "no manifest.json"
        return ListedRun(run.path.name, run.path, "foreign", what)
    manifest: dict[str, Any] = {}
    try:
        manifest = read_manifest(run)
        metrics = run.read_lines("metrics.jsonl")
        groups = summarise(metrics, (), manifest["data"])
        planned = flat(manifest["config"]).get("training.rounds")
        state, problem = _state(run, manifest)
        done = max((row["round"] for row in metrics), default=None)
        if state in ("interrupted", "killed") and done == planned:
            problem = f"all rounds are done; to write what is left: {as_typed(*RESUME, str(run.path))}"
    except (AtlasError, LookupError, TypeError, ValueError) as error:
        what = str(error) if isinstance(error, AtlasError) else f"manifest.json: {type(error).__name__}: {error}"
        started = manifest.get("started")
        return ListedRun(run.path.name, run.path, "damaged", what, started, config=manifest.get("config") or {})
    took = manifest.get("duration_s")
    return ListedRun(
        run.path.name,
        run.path,
        state,
        problem,
        manifest["started"],
        sum(row["seconds"] for row in metrics) if took is None or state in ("running", "killed") else took,
        done,
        planned,
        groups,
        manifest["config"],
    )


def _state(run: RunDirectory, manifest: Mapping[str, Any]) -> tuple[str, str | None]:
    """How it stands, and what is wrong."""
    if manifest["status"] != "running":
        return manifest["status"], manifest.get("error")
    try:
        return "running" if writer_of(run) is not None else "killed", None
    except OutputError as error:  # a folder that is only to be read
        return "running", f"or killed: {error}"
