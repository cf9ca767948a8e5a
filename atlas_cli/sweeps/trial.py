"""One run of a sweep: left out where it is finished, gone on with where it can be, else started."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from atlas_cli.config.grid import Combination
from atlas_cli.config.load import load_config
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import AtlasError, ConfigError
from atlas_cli.reports.summary import GroupSummary, summarise
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.run_status import find_status, runs_of
from atlas_cli.sweeps.child import train

Status = Literal["finished", "skipped", "failed", "interrupted", "not started"]


@dataclass(frozen=True)
class Trial:
    """What a sweep runs: plain values, so that it may be sent to another process.

    Attributes:
        number: from 1, in the order of the grid.
        file: the config, as the command line names it.
        combination: what it changes.
        config: what that came to when the sweep began.
        log: file for what the run prints.
    """

    number: int
    file: str
    combination: Combination
    config: ExperimentConfig
    log: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a trial.

    Attributes:
        status: "skipped" where it was finished before; "interrupted" where it was stopped with the sweep.
        run: its run directory, None where there is none.
        error: one line of why it failed.
        log: what the run printed; None where no process was started.
        seconds: wall time of its process.
        groups: of a finished run, the figures of every task group.
        ends_sweep: the sweep was told to stop meanwhile; the run may have reached its end for all that.
    """

    number: int
    status: Status
    run: Path | None = None
    error: str | None = None
    log: Path | None = None
    seconds: float = 0.0
    groups: tuple[GroupSummary, ...] = ()
    ends_sweep: bool = False


def run_trial(trial: Trial) -> Outcome:
    """Do what remains to be done for a trial, in a process of its own; its failure is an outcome, and not raised."""
    try:
        if load_config(trial.file, trial.combination.overrides).config != trial.config:
            raise ConfigError("has changed since the sweep began; start the sweep again", where=trial.file)
        now = find_status(trial.config)
        if now.action == "skip" and now.run is not None:
            return Outcome(trial.number, "skipped", now.run.path, groups=_groups(now.run))
        if now.action == "held" and now.run is not None:
            return Outcome(trial.number, "failed", now.run.path, now.reason)
        known = {run.path for run, _ in runs_of(trial.config)}
        arguments = [trial.file, *trial.combination.overrides]
        if now.action == "resume" and now.run is not None:
            known.remove(now.run.path)
            arguments = ["--resume", str(now.run.path)]
        began = time.perf_counter()
        ended = train(arguments, trial.log)
        seconds = time.perf_counter() - began
        made = next(((run, facts["status"]) for run, facts in runs_of(trial.config) if run.path not in known), None)
        path = made[0].path if made else None
        if made is not None and made[1] == "finished":
            groups = _groups(made[0])
            return Outcome(trial.number, "finished", path, None, trial.log, seconds, groups, ended.interrupted)
        status: Status = "interrupted" if ended.interrupted else "failed"
        reason = ended.reason or f"it ended well, but left no finished run in {trial.config.output.dir}"
        return Outcome(trial.number, status, path, reason, trial.log, seconds, (), ended.interrupted)
    except AtlasError as error:
        return Outcome(trial.number, "failed", error=" ".join(str(error).split("\n")))


def _groups(run: RunDirectory) -> tuple[GroupSummary, ...]:
    metrics, clients = run.read_lines("metrics.jsonl"), run.read_lines("clients.jsonl")
    return tuple(summarise(metrics, clients, run.read_json("manifest.json")["data"]))
