"""The status of a config: whether a run of it is finished, can be resumed, or is being written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import OutputError, ResourceError
from atlas_cli.runs.checkpoint import folders
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.listing import manifests
from atlas_cli.runs.resumable import changeable, is_run_of, read_manifest, recorded_config
from atlas_cli.runs.run_lock import writer_of


@dataclass(frozen=True)
class RunStatus:
    """What remains to be done for a config.

    Attributes:
        action: "skip" with a finished ``run``, "resume" with one that has a checkpoint, "held" with one that a process
            writes, or may, and "run" where there is none of these.
        reason: of "held", who writes there.
    """

    action: Literal["skip", "resume", "held", "run"]
    run: RunDirectory | None = None
    reason: str | None = None


def runs_of(config: ExperimentConfig) -> list[tuple[RunDirectory, dict[str, Any]]]:
    """Runs of this very config in its ``output.dir`` with their manifests, newest first; damaged ones are left out.

    All keys but ``output`` must be equal, even those that may change on resuming, as a sweep may vary them.

    Raises:
        OutputError: ``output.dir`` names the home of an unknown user.
    """
    same, is_one, found = changeable(config), is_run_of(config), []
    for path in manifests(config.output.dir):
        run = RunDirectory(path.parent)
        try:
            manifest = read_manifest(run)
            if is_one(manifest) and changeable(recorded_config(manifest["config"])) == same:
                found.append((run, manifest))
        except ResourceError:
            continue
    return found


def find_status(config: ExperimentConfig) -> RunStatus:
    """Find the newest finished run of a config, else the newest that is being written or can be resumed.

    Raises:
        OutputError: as ``runs_of``.
    """
    found = runs_of(config)
    for run, manifest in found:
        if manifest["status"] == "finished":
            return RunStatus("skip", run)
    for run, _ in found:
        try:
            writer = writer_of(run)
        except OutputError as error:
            return RunStatus("held", run, str(error))
        if writer is not None:
            return RunStatus("held", run, f"{run.path} is written by {writer}; wait until it ends, or stop it")
        if folders(run):
            return RunStatus("resume", run)
    return RunStatus("run")
