"""One run from its config to its report: a new run, or one resumed from its last checkpoint."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from atlas_cli.clustering.fingerprints import require_examples, takes_fingerprints
from atlas_cli.config.clients_of_a_run import require_few_enough
from atlas_cli.config.dump import dump_config
from atlas_cli.config.load import LoadedConfig
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.engines.engine import Engine, engine_of
from atlas_cli.engines.passes import without_graphs
from atlas_cli.errors import AtlasError, ConfigError, InterruptedRunError
from atlas_cli.experiment.allocation.device_fit import fit_to_devices, must_fit, slow_bfloat16
from atlas_cli.experiment.early_end import leave_results, record_early_end, telling_the_log
from atlas_cli.experiment.end_of_run import end_run
from atlas_cli.experiment.manifest_facts import (
    clock_facts,
    data_facts,
    device_name,
    licence_facts,
    model_facts,
)
from atlas_cli.experiment.recorder import Recorder
from atlas_cli.experiment.round_loop import train
from atlas_cli.experiment.run_budget import RunBudget
from atlas_cli.experiment.run_inputs import changed_code, changed_since, inputs, other_versions
from atlas_cli.experiment.run_state import RunCheckpoints, RunState
from atlas_cli.experiment.split_check import Check, before_codecs, require_verified
from atlas_cli.experiment.split_proof import verify_split
from atlas_cli.federation.build import make_federation
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.loaded_experiment import load_experiment
from atlas_cli.federation.prefix_setup import without_prefix
from atlas_cli.interrupts import Stopping
from atlas_cli.models.files.weight_files import named
from atlas_cli.planning.devices.clock_notes import clock_notes
from atlas_cli.planning.memory_assumptions import unpredicted
from atlas_cli.planning.plan import cuts_text, make_plan
from atlas_cli.plugin_errors import described
from atlas_cli.reports.page.live import LiveReport
from atlas_cli.reports.progress import Progress
from atlas_cli.runs.checkpoint import load_newest, remove_newer
from atlas_cli.runs.directory import RunDirectory, folder_of_runs, require_folder, require_manifest
from atlas_cli.runs.manifest import start_manifest
from atlas_cli.runs.parts import resumed_manifest
from atlas_cli.runs.record_files import RecordFiles
from atlas_cli.runs.resumable import (
    experiment_sha256,
    newest_unfinished,
    read_manifest,
    require_same,
    resumed_config,
    unlike_more_rounds,
)
from atlas_cli.runs.run_lock import locked
from atlas_cli.runs.seals import INDEX, MEMORY
from atlas_cli.storage.scratch_folders import OFFLOAD, PREFIX_CACHE, clear
from atlas_cli.trackers.of_a_run import Trackers, load_trackers, tracked_run
from atlas_cli.wire.recorded_messages import Recording, require_recorded


def start(config: ExperimentConfig, progress: Progress, ledger: Path | None = None) -> RunDirectory:
    """Check, prove the split, make a run directory and train.

    Args:
        ledger: the privacy ledger that counts earlier runs and this one.

    Raises:
        ConfigError, ResourceError, BudgetSpentError: before anything is written.
        AtlasError: the split is not the unsplit model, or the run fails; a failed run keeps what it wrote.
    """
    require_folder(config.output.dir)
    federation, checks = _ready(config, progress)
    budget = _budget(federation, ledger)
    for note in budget.notes():
        progress.note(note)
    budget.require_start()
    with engine_of(federation, progress.note) as engine:
        manifest = {**_manifest(federation, checks), "experiment_sha256": experiment_sha256(config)}
        manifest["privacy"] |= budget.record()
        with Stopping() as stopping:
            stopping.waits = True  # until the folder says what it is
            run = RunDirectory.create(config.output.dir, config.name, config.seed)
            with require_manifest(run), locked(run, progress.note):
                run.write_text("config.yaml", dump_config(federation.config))
                run.write_json("manifest.json", manifest)
                progress.keep(run.log)
                progress.note(f"run directory {run.path}")
                state = RunState(federation)
                _run(federation, RecordFiles(run), manifest, progress, stopping, engine, state, budget, done=None)
    return run


def resume(
    run: RunDirectory,
    loaded: LoadedConfig,
    progress: Progress,
    *,
    take_changed_code: bool = False,
    ledger: Path | None = None,
) -> RunDirectory:
    """Resume a run from its newest undamaged checkpoint; later records are cut off, and their rounds run again.

    Args:
        loaded: the run's own config, with overrides of keys that may change.
        take_changed_code: go on although files of plug-ins are not what they were; the manifest then says which, from
            which round on, with both hashes.
        ledger: where the privacy ledger is now; None: where the run found it, if it had one.

    Raises:
        BudgetSpentError: the next round would pass a privacy budget.
        ConfigError: a key that changes the mathematics, with the list of those that may change.
        ResourceError: no checkpoint, or the model or data have changed.
        OutputError: another process writes to the run directory, or it cannot be written.
    """
    with Stopping() as stopping, locked(run, progress.note):
        manifest = read_manifest(run)
        checkpoint, warnings = load_newest(run)  # first: a config of another version has other keys, too
        require_same(manifest["config"], loaded.config)
        for warning in warnings:
            progress.note(f"warning: {warning}; using the checkpoint before it")
        files = RecordFiles.of_checkpoint(run, checkpoint.records)
        if loaded.config.audit is not None and INDEX in checkpoint.records:
            require_recorded(run, checkpoint.records[INDEX].bytes, checkpoint.round)
        _require_unfinished(manifest, checkpoint.round, loaded.config.training.rounds)
        federation, checks = _ready(loaded.config, progress)
        fresh = _manifest(federation, checks)
        changed = changed_code(manifest, federation)
        if what := changed_since(manifest, federation, code=not take_changed_code):
            hint = ", or go on with it, which the manifest and the report then say: --changed-code"
            raise ConfigError(f"this run cannot go on: {what}{hint if changed and not take_changed_code else ''}")
        if changed:
            said = f"goes on with changed code after round {checkpoint.round}: {', '.join(changed)}"
            progress.note(f"warning: {said}")
            run.log(said)
        if text := other_versions(manifest, fresh):
            progress.note(f"warning: {text}")
        budget = _budget(federation, ledger, manifest)
        state = RunState(federation)
        state.restore(checkpoint.tensors, checkpoint.state, checkpoint.name)
        if state.best.stops and manifest["status"] == "finished":
            raise ConfigError(
                f"training ended after round {checkpoint.round}: {state.best.sentence()}; to go on, set"
                f" training.early_stopping.patience above {state.best.since}, or training.early_stopping=null",
                key="training.early_stopping",
            )
        for note in budget.notes():
            progress.note(note)
        budget.require_start(checkpoint.round, over=manifest["status"] == "finished")
        run.remove_partial()
        remove_newer(run, checkpoint.round)
        progress.keep(run.log)  # not before: a run that is refused stays as it is
        goes_on = checkpoint.round < loaded.config.training.rounds and not state.best.stops
        what = (
            f"goes on after round {checkpoint.round}" if goes_on else "has all its rounds, and what is left is written"
        )
        progress.note(f"{run.path} {what}")
        if text := unlike_more_rounds(manifest, checkpoint.round, federation.config):
            progress.note(f"warning: {text}")
        fresh = resumed_manifest(manifest, fresh, checkpoint.round, changed)
        fresh["privacy"] |= budget.record()
        with engine_of(federation, progress.note) as engine:
            stopping.waits = True
            run.write_text("config.yaml", dump_config(loaded.config))
            run.write_json("manifest.json", fresh)
            _cut(files, progress, checkpoint.round < loaded.config.training.rounds)
            _run(federation, files, fresh, progress, stopping, engine, state, budget, done=checkpoint.round)
    return run


def resume_newest(
    loaded: LoadedConfig, progress: Progress, *, take_changed_code: bool = False, ledger: Path | None = None
) -> RunDirectory:
    """Resume the newest unfinished run of a config.

    Raises:
        ConfigError: there is none; and as ``resume``.
    """
    run = newest_unfinished(loaded.config, loaded.path)
    config = resumed_config(read_manifest(run)["config"], loaded.config)
    return resume(run, replace(loaded, config=config), progress, take_changed_code=take_changed_code, ledger=ledger)


def _budget(federation: Federation, ledger: Path | None, manifest: Mapping[str, Any] | None = None) -> RunBudget:
    """The budget of a run that starts, or of one with a manifest that goes on."""
    before = ((manifest or {}).get("privacy") or {}).get("ledger") or {}
    file = ledger if ledger is not None else Path(before["file"]) if before else None
    account, budget = federation.protection.account, federation.protection.budget
    made = RunBudget(federation.config, account, budget, federation.data, file, before.get("run"))
    return made


def _cut(files: RecordFiles, progress: Progress, goes_on: bool) -> None:
    """Cut off what is done again, and say so; and what becomes of memory.json where it is gone."""
    anew = "memory is measured anew in the next round" if goes_on else "no round is left to measure memory in"
    for line in (files.cut(), f"memory.json is missing: {anew}" if files.memory_is_missing else None):
        if line is not None:
            progress.note(line)


def _require_unfinished(manifest: dict[str, Any], done: int, rounds: int) -> None:
    if done > rounds:
        raise ConfigError(f"{done} rounds are done already, got {rounds}", key="training.rounds")
    if done == rounds and manifest["status"] == "finished":
        raise ConfigError(f"all {done} rounds are done; to go on, add training.rounds=N", key="training.rounds")


def _ready(config: ExperimentConfig, progress: Progress) -> tuple[Federation, list[Check]]:
    require_few_enough(config)
    load_trackers(config.trackers)
    progress.doing("fitting clients to their devices" if must_fit(config) else "planning")
    ranks = fit_to_devices(config)
    config = ranks.config
    for name in clear(folder_of_runs(config.output.dir), OFFLOAD, PREFIX_CACHE):
        progress.note(f"removed {name} from {config.output.dir}: the process that it belonged to is gone")
    plan = make_plan(config)
    where = f"cut after layer {cuts_text(plan)} of {plan.n_layers}" if config.mode == "split-federated" else config.mode
    progress.note(f"{config.name}: {config.model.name}, {where}, weights {plan.init}")
    progress.doing("reading model and data")
    loaded = ranks.loaded.with_ranks(plan) if ranks.loaded is not None else load_experiment(plan)
    federation = make_federation(loaded)
    if takes_fingerprints(config):
        require_examples({client: federation.train_features(client) for client in federation.clients})
    for name, group in federation.data.items():
        for note in group.notes:
            progress.note(f"note: {name}: {note}")
    if left := federation.base.left_out:
        progress.note(f"note: left out of the model's files, as heads are atlas' own: {named(left)}")
    for name, start in federation.warm_starts.items():
        progress.note(start.note(name))
    for note in (*clock_notes(config), *(unpredicted(config) if must_fit(config) else ())):
        progress.note(f"note: {note}")
    for unused in (*without_prefix(config, plan), *without_graphs(federation)):
        progress.note(f"warning: {unused}")
    for warning in federation.protection.warnings():
        progress.note(f"warning: {warning}")
    if text := slow_bfloat16(federation):
        progress.note(text)
    progress.doing("comparing the split with the unsplit model")
    checks = verify_split(federation) if federation.split else []
    for check in checks:
        progress.note(check.sentence())
    require_verified(checks)
    for note in before_codecs(config) if checks else ():
        progress.note(f"note: {note}")
    return federation, checks


def _manifest(federation: Federation, checks: list[Check]) -> dict[str, Any]:
    config = federation.config
    manifest = start_manifest(
        config.model_dump(mode="json"),
        sys.argv,
        config.seed,
        device_name(federation.device),
        threads=torch.get_num_threads(),
        model=model_facts(federation),
        data=data_facts(federation),
    )
    manifest |= {"licences": licence_facts(config), "inputs": inputs(federation)}
    if (clock := clock_facts(config)) is not None:
        manifest["virtual_clock"] = clock
    if starts := {name: each.record() for name, each in federation.warm_starts.items()}:
        manifest["warm_starts"] = starts
    return {**manifest, "verify": _by_group(checks), "privacy": federation.protection.record()}


def _by_group(checks: list[Check]) -> dict[str, Any]:
    """Records of checks by task group; by group, split layer and dtype where a group has several."""
    several = Counter(check.task_group for check in checks)
    return {f"{c.task_group} at {c.place}" if several[c.task_group] > 1 else c.task_group: c.record() for c in checks}


def _run(
    federation: Federation,
    files: RecordFiles,
    manifest: dict[str, Any],
    progress: Progress,
    stopping: Stopping,
    engine: Engine,
    state: RunState,
    budget: RunBudget,
    done: int | None,
) -> None:
    """Train inside a run directory whose manifest says at every moment how it stands; "finished" is written last."""
    training, run = federation.config.training, files.run
    checkpoints = RunCheckpoints(federation, files, state)
    if (audit := federation.config.audit) is not None:
        codings = [member.coding for member in federation.aggregator.members.values()]
        changes = any(coding is not None and coding.down is not None for coding in codings)
        federation.recording = Recording(audit.record, federation.clients, run, done, changes)

    trackers = Trackers(load_trackers(federation.config.trackers), progress.note)
    last = None  # the last round, once training has ended

    def checkpoint(number: int) -> None:
        checkpoints.after_round(number)
        report.after_round(recorder.metrics)
        measured = recorder.measured is not None and recorder.measured.number == number
        rows = [row for row in recorder.metrics if row["round"] == number]
        trackers.after_round(rows, _memory(run) if measured else None)
        progress.kept(number)
        stopping.check()

    try:
        progress.doing("starting trackers")
        before = run.read_lines("metrics.jsonl")
        trackers.start(tracked_run(run.path, federation.config.name, manifest["config"], done), before)
        progress.start(training.rounds, training.local_steps, federation.group_names)
        stopping.check()
        recorder = Recorder(federation, files, progress, stopping.check)
        report = LiveReport(run, manifest, before)
        last = train(federation, recorder, checkpoint, done, engine.local_steps, state.best, budget)
        stopping.waits = False  # nothing that follows is lost when it stops: resuming does it again
        metrics = [*before, *recorder.metrics]
        ended = end_run(checkpoints, manifest, metrics, last, progress, engine, budget)
    except BaseException as error:
        progress.stop()
        ended = record_early_end(checkpoints, manifest, error, engine, last)
        stopping.waits = False
        with suppress(KeyboardInterrupt):  # who stops what follows wants to wait for nothing more
            if last is not None:
                with telling_the_log(run):
                    report.stopped(ended, recorder.metrics)
            elif not stopping.at_once:
                ended = leave_results(federation, run, ended, progress)
            if not stopping.at_once:
                _finish(trackers, run, ended)
        progress.stop()
        if isinstance(error, KeyboardInterrupt):
            raise InterruptedRunError("; ".join(["interrupted", *getattr(error, "__notes__", ())])) from None
        if isinstance(error, SystemExit):  # of a plug-in, which would end a failed run with any exit code
            raise AtlasError("; ".join([described(error), *getattr(error, "__notes__", ())])) from error
        raise
    finally:
        federation.close()
    with suppress(KeyboardInterrupt):  # who stops it does not want to wait for trackers, and the run has ended already
        _finish(trackers, run, ended)


def _finish(trackers: Trackers, run: RunDirectory, ended: Mapping[str, Any]) -> None:
    """Tell trackers of the end."""
    trackers.finish(ended["status"], _memory(run), ended["duration_s"])


def _memory(run: RunDirectory) -> Any:
    """memory.json; None where nothing was measured."""
    with suppress(AtlasError):
        return run.read_json(MEMORY)
    return None
