"""Finds the exported adapter of a task group or a client in a run directory, or exports it from a checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.experiment.adapter_export import BEST_FOLDER, FOLDER, export_adapters
from atlas_cli.experiment.run_inputs import changed_since
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.build import build_for_audit
from atlas_cli.models.adapters.origin import read_origin
from atlas_cli.printable import listed
from atlas_cli.runs.checkpoint import Checkpoint, folders, load_newest, load_round, round_of
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.storage.folder_names import folder_names
from atlas_cli.suggest import did_you_mean


@dataclass(frozen=True)
class Owner:
    """Whose adapter is asked for.

    Attributes:
        group: the task group.
        client: the client, for its own adapter; None for the one that the group shares.
        part: the name of the shared one: the group's, or that of the group's part in one cluster.
    """

    group: str
    client: str | None = None
    part: str | None = None

    @property
    def name(self) -> str:
        """The name that origin.json has."""
        return self.client or self.part or self.group

    def __str__(self) -> str:
        return f"client {self.client}" if self.client else f"task group {self.name}"


def choose_owner(config: ExperimentConfig, group: str | None = None, client: str | None = None) -> Owner:
    """Whose adapter to take: a client's, a task group's, or that of the only task group where neither is named.

    Args:
        group: a task group, or its part in a cluster, ``GROUP.CLUSTER``.

    Raises:
        ConfigError: there is no such group or client, both are named, or neither where there are several groups.
    """
    groups = list(config.task_groups)
    if group is not None and client is not None:
        raise ConfigError("--group and --client are both given: give one of the two")
    if client is not None:
        clients = clients_of(config)
        if client not in clients:
            raise ConfigError(f"--client: the run has no client {client}{did_you_mean(client, clients)}")
        return Owner(clients[client], client)
    if group is None:
        if len(groups) > 1:
            raise ConfigError(f"the run has several task groups: {listed(groups)}; give --group NAME or --client NAME")
        return _of_group(config, groups[0])
    for name in sorted(groups, key=len, reverse=True):
        if group == name or (config.clustering is not None and group.startswith(f"{name}.")):
            return _of_group(config, name, group)
    raise ConfigError(f"--group: the run has no task group {group}{did_you_mean(group, groups)}")


def _of_group(config: ExperimentConfig, group: str, part: str | None = None) -> Owner:
    """The one that the group shares; in mode ``centralized`` that of the learner that has all data of the group."""
    return Owner(group, _learner(group)) if config.mode == "centralized" else Owner(group, part=part)


def _learner(group: str) -> str:
    return f"{group}-pooled"


def groups_to_use(config: ExperimentConfig, group: str | None, client: str | None) -> list[str | None]:
    """The task groups that a command uses one by one: the named one, else all; None where a client is named.

    Raises:
        ConfigError: as ``choose_owner``.
    """
    if group is not None or client is not None:
        choose_owner(config, group, client)
        return [group]
    return [*config.task_groups]


def clients_of(config: ExperimentConfig) -> dict[str, str]:
    """The task group of every client that trained, by name; in mode ``centralized`` of the learner of each group."""
    if config.mode == "centralized":
        return {_learner(group): group for group in config.task_groups}
    return {client.name: client.task_group for client in config.expanded_clients()}


def kept_rounds(run: RunDirectory, manifest: Mapping[str, Any]) -> list[int]:
    """The rounds whose adapters can be had: that of ``adapters/``, and those of whole checkpoints."""
    exported = manifest.get("adapters_of_round")
    return sorted({round_of(folder) for folder in folders(run)} | ({exported} if type(exported) is int else set()))


@contextmanager
def adapter_folder(
    run: RunDirectory, config: ExperimentConfig, owner: Owner, round_number: int | None = None
) -> Iterator[tuple[Path, int]]:
    """The folder of an adapter in PEFT format, and the round after which it was so.

    Without ``round_number`` it is the last round that was exported, or where none was (the process was killed) that of
    the newest checkpoint. What is neither in ``adapters/`` nor, as that of the best round on a validation part, in
    ``best_adapters/`` is exported from its checkpoint to a temporary folder.

    Raises:
        ConfigError: that round is not kept.
        ResourceError: the run has no adapters yet, its clients share none, its files are damaged, or model or data
            that a checkpoint needs have changed.
    """
    manifest = run.read_json("manifest.json")
    exported, kept = manifest.get("adapters_of_round"), kept_rounds(run, manifest)
    best = (manifest.get("best") or {}).get(owner.group) or {}
    if round_number is not None and round_number != exported and round_number == best.get("round"):
        folder = _of_best_round(run, best["adapters"], owner)
        if folder is not None:
            yield folder, round_number
            return
    if round_number is not None and round_number not in kept:
        there = f"kept are {listed(map(str, kept), most=20)}" if kept else "none is kept"
        raise ConfigError(f"--round: round {round_number} of {run.path} is not kept; {there} (checkpoints.keep)")
    if not kept:
        raise ResourceError(f"{run.path} has no adapters and no checkpoint yet; wait for its first round")
    if exported is not None and round_number in (None, exported):
        yield _within(run.path / FOLDER, config, owner), exported
        return
    checkpoint = load_newest(run)[0] if round_number is None else load_round(run, round_number)
    with tempfile.TemporaryDirectory(prefix="atlas-adapters-", ignore_cleanup_errors=True) as scratch:
        _export(run, config, manifest, checkpoint, Path(scratch), owner)
        yield _within(Path(scratch) / FOLDER, config, owner), checkpoint.round


def _export(
    run: RunDirectory,
    config: ExperimentConfig,
    manifest: Mapping[str, Any],
    checkpoint: Checkpoint,
    scratch: Path,
    owner: Owner,
) -> None:
    """Export the adapter of ``owner`` and those of groups: all of many thousand clients would take minutes."""
    federation = build_for_audit(config)
    try:
        if changed := changed_since(manifest, federation):
            raise ResourceError(f"the checkpoints of {run.path} cannot be used: {changed}")
        where = f"{run.path}: {checkpoint.name}"
        RunState(federation).restore(checkpoint.tensors, checkpoint.state, where)
        export_adapters(federation, RunDirectory(scratch), clients=[owner.client] if owner.client else [])
    finally:
        federation.close()


def _within(adapters: Path, config: ExperimentConfig, owner: Owner) -> Path:
    """The folder of ``owner`` among all adapters of a round."""
    if not adapters.is_dir():
        raise ResourceError(f"{adapters} is missing; restore it, or name an earlier round that is kept with --round")
    if owner.client is not None:
        folder = adapters / "clients" / folder_names(clients_of(config))[owner.client]
        if not folder.is_dir():
            raise ResourceError(f"{folder} is missing; the run's adapters are not whole")
        return folder
    shared = _shared(adapters)
    if owner.name in shared:
        return shared[owner.name]
    parts = [name for name in shared if name.startswith(f"{owner.group}.")]
    clients = [name for name, group in clients_of(config).items() if group == owner.group]
    raise ResourceError(_no_shared(owner, parts, clients))


def _of_best_round(run: RunDirectory, folders: Sequence[str], owner: Owner) -> Path | None:
    """The folder of ``owner`` among those of its task group's best round; None where it has none of its own."""
    kind = f"{BEST_FOLDER}/{'clients' if owner.client else 'groups'}/"
    for folder in (run.path / each for each in folders if each.startswith(kind)):
        origin = read_origin(folder)
        if origin is not None and origin.owner == owner.name:
            return folder
    return None


def _shared(adapters: Path) -> dict[str, Path]:
    found = {}
    for folder in sorted((adapters / "groups").glob("*")):
        origin = read_origin(folder)
        if origin is not None:
            found[origin.owner] = folder
    return found


def _no_shared(owner: Owner, parts: Sequence[str], clients: Sequence[str]) -> str:
    if parts:
        return f"the clients of {owner} are in several clusters; give --group with one of {listed(parts)}"
    return f"the clients of {owner} share no adapter; give --client with one of {listed(clients)}"
