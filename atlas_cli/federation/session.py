"""One run from its config to its report: started anew, or gone on with from its last checkpoint."""

from __future__ import annotations

import json
import sys
from collections import Counter
from contextlib import suppress
from typing import Any

import torch

from atlas_cli.config.dump import dump_config
from atlas_cli.config.load import LoadedConfig
from atlas_cli.config.schema import ExperimentConfig
from atlas_cli.errors import ConfigError, OutputError
from atlas_cli.federation.build import Federation, build
from atlas_cli.federation.export import export_adapters
from atlas_cli.federation.facts import data_facts, device_name, model_facts
from atlas_cli.federation.recorder import Recorder
from atlas_cli.federation.state import capture, restore
from atlas_cli.federation.training import train
from atlas_cli.federation.verify import Check, require_verified, verify_split
from atlas_cli.models.load import current_sha256
from atlas_cli.models.stored import departure
from atlas_cli.planning.auto_ranks import plan_ranks
from atlas_cli.planning.plan import cuts_text, make_plan
from atlas_cli.reports.html import write_report
from atlas_cli.reports.progress import Progress
from atlas_cli.reports.units import format_bytes_mib
from atlas_cli.runs.checkpoint import Checkpoint, load_newest, save_checkpoint
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.manifest import Status, end_manifest, start_manifest

# keys that change how long, how often, where, or what ends the run, and not what is computed until then
MAY_CHANGE = (
    *("training.rounds", "training.min_clients", "training.on_nonfinite"),
    *("evaluation", "device", "output", "aggregation.error_ledger"),
)


def start(config: ExperimentConfig, progress: Progress) -> RunDirectory:
    """Check, prove the split, make a run directory and train.

    Raises:
        ConfigError, ResourceError: before anything is written.
        AtlasError: the split is not the unsplit model, or the run fails; a failed run keeps what it wrote.
    """
    federation, checks = _ready(config, progress)
    run = RunDirectory.create(config.output.dir, config.name, config.seed)
    progress.note(f"run directory {run.path}")
    manifest = _manifest(federation, checks)
    run.write_json("manifest.json", manifest)
    run.write_text("config.yaml", dump_config(federation.config))
    _run(federation, run, manifest, progress, done=None)
    return run


def resume(run: RunDirectory, loaded: LoadedConfig, progress: Progress) -> RunDirectory:
    """Go on from the newest undamaged checkpoint of a run; what was recorded after it is cut off and done again.

    Args:
        loaded: the run's own config, with overrides of keys that may change.

    Raises:
        ConfigError: a key that changes the mathematics, with the list of those that may change.
        ResourceError: no checkpoint, or the model or data are not what they were.
    """
    manifest = run.read_json("manifest.json")
    _require_same(manifest["config"], loaded.config)
    checkpoint, warnings = load_newest(run)
    for warning in warnings:
        progress.note(f"warning: {warning}; using the checkpoint before it")
    if checkpoint.round >= loaded.config.training.rounds:
        raise ConfigError(
            f"all {checkpoint.round} rounds are done; to go on, add training.rounds=N", key="training.rounds"
        )
    federation, checks = _ready(loaded.config, progress)
    fresh = _manifest(federation, checks)
    for what in ("model", "data"):
        if fresh[what] != manifest[what]:
            raise ConfigError(f"{what} is not what the run was started with (by hash); restore it or start anew")
    restore(federation, checkpoint.tensors, checkpoint.state)
    run.cut_to_round(checkpoint.round)
    run.log(f"resumed after round {checkpoint.round}")
    progress.note(f"{run.path} goes on after round {checkpoint.round}")
    fresh["resumed_after_rounds"] = [*manifest.get("resumed_after_rounds", []), checkpoint.round]
    fresh["started"] = manifest["started"]
    run.write_json("manifest.json", fresh)
    run.write_text("config.yaml", dump_config(loaded.config))
    _run(federation, run, fresh, progress, done=checkpoint.round)
    return run


def _ready(config: ExperimentConfig, progress: Progress) -> tuple[Federation, list[Check]]:
    config = _fitted(config)
    plan = make_plan(config)
    where = f"cut after layer {cuts_text(plan)} of {plan.n_layers}" if config.mode == "split-federated" else config.mode
    progress.note(f"{config.name}: {config.model.name}, {where}, weights {plan.init}")
    federation = build(config, plan)
    checks = verify_split(federation) if federation.server is not None else []
    for check in checks:
        progress.note(check.sentence())
    require_verified(checks)
    return federation, checks


def _fitted(config: ExperimentConfig) -> ExperimentConfig:
    """The config with a number for every ``rank: auto``, once every client is known to fit its device.

    Raises:
        ConfigError: a client's predicted peak is above its device's memory; says by how much.
    """
    if all(spec.device is None and spec.rank != "auto" for spec in config.expanded_clients()):
        return config
    planned = plan_ranks(config)
    specs = {spec.name: spec for spec in config.expanded_clients()}
    for client in planned.clients:
        memory = client.device.memory if client.device else None
        if memory is not None and client.memory.peak > memory:
            spec = specs[client.name]
            narrower = "" if spec.dtype == "bfloat16" else _narrower(planned.config, client.name, memory)
            raise ConfigError(
                f"client {client.name} needs {format_bytes_mib(client.memory.peak)} at its peak (predicted, a full "
                f"batch of the longest examples) and its device has {format_bytes_mib(memory)}; lower its rank, "
                f"training.batch_size, training.max_length or model.split_layer, or set checkpointing: true{narrower}",
                key=f"{spec.key}.device",
            )
    return planned.config


def _narrower(config: ExperimentConfig, client: str, memory: int) -> str:
    """That ``dtype: bfloat16`` would make a client fit, where it would; ranks in ``config`` are numbers."""
    key = next(spec.key for spec in config.expanded_clients() if spec.name == client).removeprefix("clients.")
    other = config.clients[key].model_copy(update={"dtype": "bfloat16"})
    planned = plan_ranks(config.model_copy(update={"clients": {**config.clients, key: other}}))
    peak = next(each.memory.peak for each in planned.clients if each.name == client)
    return f" or dtype: bfloat16 (needs {format_bytes_mib(peak)})" if peak <= memory else ""


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
    return {**manifest, "verify": _by_group(checks)}


def _by_group(checks: list[Check]) -> dict[str, Any]:
    """Records of checks by task group; by group, split layer and dtype where a group has several."""
    several = Counter(check.task_group for check in checks)
    return {f"{c.task_group} at {c.place}" if several[c.task_group] > 1 else c.task_group: c.record() for c in checks}


def _run(
    federation: Federation, run: RunDirectory, manifest: dict[str, Any], progress: Progress, done: int | None
) -> None:
    """Train inside a run directory whose manifest says at every moment how it stands."""
    training = federation.config.training

    def checkpoint(number: int) -> None:
        save_checkpoint(run, Checkpoint(number, *capture(federation)))

    try:
        progress.start(training.rounds, training.local_steps, federation.group_names)
        train(federation, Recorder(federation, run, progress), checkpoint, done)
        export_adapters(federation, run)
        manifest["base_unchanged"] = _unchanged(federation)
        run.write_json("manifest.json", end_manifest(manifest, "finished"))
    except BaseException as error:
        status: Status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        with suppress(OutputError):  # on a full disk the first error is the one to show
            run.log(f"{status}: {type(error).__name__}: {error}")
            run.write_json("manifest.json", end_manifest(manifest, status, str(error) or type(error).__name__))
        raise
    finally:
        progress.stop()
    write_report(run)


def _unchanged(federation: Federation) -> bool:
    """Whether the frozen weights are what they were, those that clients hold in a dtype of their own as well."""
    base, held = federation.base, {id(c.base): c.base for c in federation.clients.values()}
    return current_sha256(base) == base.sha256 and all(departure(base, own) == 0 for own in held.values())


def _require_same(before: dict[str, Any], config: ExperimentConfig) -> None:
    """Compare two configs key by key, but for those that may change."""
    now = json.loads(json.dumps(config.model_dump(mode="json")))
    for name, _ in sorted(_flat(before).items() ^ _flat(now).items()):
        if not any(f"{name}.".startswith(f"{key}.") for key in MAY_CHANGE):
            raise ConfigError(f"cannot change when a run is resumed; only these may: {', '.join(MAY_CHANGE)}", key=name)


def _flat(value: object, prefix: str = "") -> dict[str, str]:
    if isinstance(value, dict) and value:
        return {k: v for name, inner in value.items() for k, v in _flat(inner, f"{prefix}.{name}").items()}
    return {prefix.removeprefix("."): repr(value)}
