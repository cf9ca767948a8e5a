"""Which runs can be resumed, and with which changes to their config."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from atlas_cli import discovery
from atlas_cli.config.flat import flat, is_in
from atlas_cli.config.load import load_config
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import AtlasError, ConfigError, ResourceError
from atlas_cli.hashing import sha256_text
from atlas_cli.runs.checkpoint import folders
from atlas_cli.runs.directory import RunDirectory, folder_of_runs
from atlas_cli.runs.listing import manifests
from atlas_cli.runs.run_lock import writer_of

# keys that change how long, how often, where, or what ends the run, and not what is computed until then; sections with
# all that is in them
MAY_CHANGE = (
    *("training.rounds", "training.early_stopping", "training.min_clients", "training.on_nonfinite"),
    *("evaluation", "checkpoints", "audit", "device", "output", "trackers", "aggregation.error_ledger"),
    *("engine.offload", "engine.kept_texts", "privacy.budget.epsilon"),
    *(f"engine.{key}" for key in ("name", "address", "hosts", "cpus", "gpus", "timeout", "pinned")),
)

_NO_CONFIG = "the manifest of the run holds no config of this version"


def read_manifest(run: RunDirectory) -> dict[str, Any]:
    """The manifest of a run that is to be resumed.

    Raises:
        ResourceError: missing, damaged, or without the fields by which runs are compared.
    """
    manifest = run.read_json("manifest.json")
    wanted = {
        "status": str,
        "started": str,
        "command": list,
        "config": dict,
        "model": dict,
        "data": dict,
        "parts": list,
    }
    for key, kind in wanted.items():
        if not isinstance(manifest, dict) or not isinstance(manifest.get(key), kind):
            raise ResourceError(f"{run.path / 'manifest.json'} is damaged: no {key}; start the experiment anew")
    return manifest


def require_plugins(run: RunDirectory) -> None:
    """Check that the plug-ins which a run had from other packages are there, before its config asks for them by name.

    Raises:
        ResourceError: one is not; names its package and version. Or as ``read_manifest``.
    """
    inputs = read_manifest(run).get("inputs")
    packages = inputs.get("packages") if isinstance(inputs, dict) else None
    for package, facts in packages.items() if isinstance(packages, dict) else ():
        version = facts.get("version")
        for plugin in facts.get("plugins", ()):
            kind, _, name = plugin.partition(": ")
            if kind in discovery.GROUPS and name not in discovery.names(kind):
                raise ResourceError(
                    f"{run.path} was computed with {name} ({kind}) of the package {package} {version}, and no package "
                    f"that is installed here brings it; install {package} {version}"
                )


def config_of(run: RunDirectory) -> ExperimentConfig:
    """The config of a run; keys that atlas got since then have their defaults.

    Raises:
        ConfigError: config.yaml is none.
        ResourceError: config.yaml says something else than the manifest; or as ``require_plugins``.
    """
    require_plugins(run)
    path = run.path / "config.yaml"
    config = load_config(path).config
    was, now = _flat(_as_json(recorded_config(read_manifest(run)["config"]))), _flat(_as_json(config))
    for name in sorted(was.keys() | now.keys()):
        if was.get(name) != now.get(name):
            raise ResourceError(
                f"{path}: {name} is {now.get(name)}, and the run was made with {was.get(name)}; restore it"
            )
    return config


def experiment_sha256(config: ExperimentConfig) -> str:
    """Hash of all keys but those that may change: equal if one config can resume the other's run."""
    fixed = {key: value for key, value in _flat(_as_json(config)).items() if not is_in(key, MAY_CHANGE)}
    return sha256_text(json.dumps(fixed, sort_keys=True))


def is_run_of(config: ExperimentConfig) -> Callable[[Mapping[str, Any]], bool]:
    """Whether the run of a manifest can be resumed with a config, before ranks and cuts are fitted; keys that atlas got
    since the run was made have their defaults in it."""
    wanted, now = experiment_sha256(config), _flat(_as_json(config))  # once for all runs

    def is_one(manifest: Mapping[str, Any]) -> bool:
        if manifest.get("experiment_sha256") == wanted:
            return True
        was = _flat(manifest["config"])
        fixed = ((key, value) for key, value in was.items() if not is_in(key, MAY_CHANGE))
        if was.keys() >= now.keys() or any(now.get(key) != value for key, value in fixed):
            return False
        try:
            return experiment_sha256(recorded_config(manifest["config"])) == wanted
        except ResourceError:
            return False

    return is_one


def changeable(config: ExperimentConfig | Mapping[str, Any]) -> dict[str, str]:
    """The values of the keys that may change, but for ``output``: with ``experiment_sha256`` all that two runs of one
    config have in common."""
    values = _flat(_as_json(config) if isinstance(config, ExperimentConfig) else config)
    return {key: value for key, value in values.items() if is_in(key, MAY_CHANGE) and not key.startswith("output.")}


def require_same(before: Mapping[str, Any], config: ExperimentConfig) -> None:
    """Compare a run's config with one that is to resume it.

    Raises:
        ConfigError: a key that changes the mathematics, with those that may change; or more rounds where the learning
            rate of every step depends on their number.
    """
    was, now = _flat(before), _flat(_as_json(config))
    for name in sorted(was.keys() | now.keys()):
        if was.get(name) != now.get(name) and not is_in(name, MAY_CHANGE):
            raise ConfigError(f"cannot change when a run is resumed; only these may: {', '.join(MAY_CHANGE)}", key=name)
    if was.get("training.rounds") != now["training.rounds"] and (target := config.privacy.with_target()):
        raise ConfigError(
            f"cannot change: privacy.{target}.epsilon is for all {was.get('training.rounds')} rounds, for which its "
            "noise was found; start a run, or one with noise_multiplier",
            key="training.rounds",
        )
    schedule = config.training.schedule
    if was.get("training.rounds") != now["training.rounds"] and (schedule.name != "constant" or schedule.warmup):
        raise ConfigError(
            f"cannot change: the schedule ({schedule.name}, warmup {schedule.warmup:g}) spreads the learning rate over "
            f"all {was.get('training.rounds')} rounds, so the rounds done would have been others; start a run, from "
            "this one's adapters with task_groups.NAME.adapter",
            key="training.rounds",
        )


def unlike_more_rounds(manifest: Mapping[str, Any], done: int, config: ExperimentConfig) -> str | None:
    """Why rounds after the end of training, after ``done`` rounds, are not those of a run of more rounds."""
    ended = manifest["status"] == "finished" or manifest["config"]["training"]["rounds"] == done
    if not ended or config.training.rounds == done:
        return None
    if config.training.asynchrony is not None:
        why = "the work of clients under way was dropped: all start anew"
    elif config.training.cohort < 1 and any("deliveries" in c.wire.of_parameters() for c in config.client_kinds()):
        why = "every client got a delivery, coded as wire.deliveries says: idle ones hold other adapters by it"
    else:
        return None
    return f"training had ended after round {done}, where {why}, so that later rounds are not those of a longer run"


def resumed_config(before: Mapping[str, Any], config: ExperimentConfig) -> ExperimentConfig:
    """A run's own config with the keys that may change as ``config`` has them.

    Raises:
        ResourceError: what the run recorded is no config.
    """
    result, now = json.loads(json.dumps(before)), _as_json(config)
    try:
        for key in MAY_CHANGE:
            *sections, last = key.split(".")
            there, here = result, now
            for section in sections:
                there, here = there[section], here[section]
                if there is None or here is None:  # whether there is a section may not change
                    break
            else:
                there[last] = here[last]
    except (LookupError, TypeError) as error:
        raise ResourceError(f"{_NO_CONFIG}: {error}") from None
    return recorded_config(result)


def recorded_config(config: Mapping[str, Any]) -> ExperimentConfig:
    """What a manifest has of a run's config.

    Raises:
        ResourceError: it is none.
    """
    try:
        return ExperimentConfig.model_validate_json(json.dumps(config))
    except ValueError as error:
        first = str(error).partition("\n")[0]
        raise ResourceError(f"{_NO_CONFIG}: {first}") from None


def newest_unfinished(config: ExperimentConfig, path: Path) -> RunDirectory:
    """The run of this config that started last among those that did not finish, have a checkpoint and no writer.

    Args:
        config: as given, before ranks and cuts are fitted; runs are looked for in its ``output.dir``.
        path: its file, for messages.

    Raises:
        ConfigError: there is none; says what was looked for, and what was found instead.
    """
    base, is_one, others, why = folder_of_runs(config.output.dir), is_run_of(config), 0, ""
    for manifest in manifests(base):
        run = RunDirectory(manifest.parent)
        try:
            facts = read_manifest(run)
            if facts["status"] == "finished" or not is_one(facts):
                others += 1
            elif (writer := writer_of(run)) is not None:
                why = why or f"; {run.path.name} is being written by {writer}"
            elif not folders(run):
                why = why or f"; {run.path.name} ended before its first checkpoint"
            else:
                return run
        except ResourceError:
            others += 1  # damaged, or no manifest of atlas
        except AtlasError as error:
            why = why or f"; {error}"
    found = f"{others} other run{'s' * (others != 1)} there" if others else "no other run there"
    raise ConfigError(
        f"--resume auto found no unfinished run of this config in {base} ({found}{why}); leave --resume out to start "
        "one, or give a run directory",
        where=str(path),
    )


def _flat(config: object) -> dict[str, str]:
    return {key: repr(value) for key, value in flat(config).items()}


def _as_json(config: ExperimentConfig) -> dict[str, Any]:
    return dict(json.loads(json.dumps(config.model_dump(mode="json"))))
