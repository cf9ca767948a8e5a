"""Checks between the keys of one config; none needs the model or the data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from atlas_cli.config.asynchrony_checks import asynchrony_problems
from atlas_cli.config.cohorts import cohort_size
from atlas_cli.config.data_paths import path_problems
from atlas_cli.config.learning_checks import learning_problems
from atlas_cli.config.merge_checks import merge_problems, optimizer_problems
from atlas_cli.config.privacy_checks import privacy_problems
from atlas_cli.config.problems import Problem
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.config.schema.faults import FaultsConfig, ScreenConfig
from atlas_cli.config.shard_checks import shard_problems
from atlas_cli.config.step_checks import step_problems
from atlas_cli.config.strict_yaml import KeyPath
from atlas_cli.config.wire_checks import wire_problems
from atlas_cli.suggest import did_you_mean

MAX_CLIENTS = 1_000_000  # that can be planned; more is a typing error
SHOWN = 5  # names that a line lists

_ADDRESS = re.compile(r"auto|[A-Za-z0-9_.-]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")
_HUB_TOKEN = re.compile(r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{30,}")


def cross_check(config: ExperimentConfig) -> list[Problem]:
    """All contradictions between keys; empty for a config that can be planned."""
    if (clients := sum(client.count for client in config.clients.values())) > MAX_CLIENTS:
        most = max(config.clients, key=lambda name: config.clients[name].count)
        got = config.clients[most].count
        found = f"{got:,}" if got > MAX_CLIENTS else f"{clients:,} of all entries, of which this has most"
        return [Problem(("clients", most, "count"), f"more than {MAX_CLIENTS:,} clients; expected fewer, got {found}")]
    checks = (
        _groups,
        _clients,
        _model,
        _partition,
        _training,
        optimizer_problems,
        merge_problems,
        _early_stopping,
        asynchrony_problems,
        _faults,
        _clustering,
        _engine,
        _audit,
        learning_problems,
        step_problems,
        privacy_problems,
        wire_problems,
        path_problems,
    )
    secrets = _secrets(said, ()) if "hf_" in repr(said := config.model_dump()) else ()
    return [*secrets, *(problem for check in checks for problem in check(config))]


def _secrets(value: object, path: KeyPath) -> Iterator[Problem]:
    """Configs are copied into every run directory, so no token may be in one."""
    if isinstance(value, str) and _HUB_TOKEN.search(value):
        yield Problem(path, "holds an access token; take it out, and set HF_TOKEN in the environment instead")
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _secrets(inner, (*path, key))


def _groups(config: ExperimentConfig) -> Iterator[Problem]:
    used = {client.task_group for client in config.clients.values()}
    for name, client in config.clients.items():
        if client.task_group not in config.task_groups:
            hint = did_you_mean(client.task_group, config.task_groups)
            yield Problem(("clients", name, "task_group"), f"no task group {client.task_group!r}{hint}")
    for name, group in config.task_groups.items():
        if name not in used:
            yield Problem(
                ("task_groups", name), "no client trains this group; add a client with this task_group, or remove it"
            )
        classes = group.classes or []
        twice = sorted(name for name, count in Counter(classes).items() if count > 1)
        if twice:
            yield Problem(("task_groups", name, "classes"), f"named twice: {', '.join(twice)}")


def _clients(config: ExperimentConfig) -> Iterator[Problem]:
    """Names that come from two entries: one of an entry of several clients (``NAME-1`` and so on), and an entry of one
    client that has it; others cannot be alike, so that no name need be made."""
    several = {name: client.count for name, client in config.clients.items() if client.count > 1}
    taken: dict[str, list[tuple[int, str]]] = {}  # by entry of several, its names that entries of one have
    for name, client in config.clients.items():
        entry, _, number = name.rpartition("-")
        counted = client.count == 1 and re.fullmatch("[1-9][0-9]{0,6}", number) is not None
        if counted and int(number) <= several.get(entry, 0):
            taken.setdefault(entry, []).append((int(number), name))
    order = {name: place for place, name in enumerate(config.clients)}
    for name in config.clients:
        for _, other in sorted(taken.get(name, [])):
            first, second = sorted((name, other), key=order.__getitem__)
            yield Problem(
                ("clients", second), f"a client named {other} also comes from clients.{first}; rename one of the two"
            )


def _model(config: ExperimentConfig) -> Iterator[Problem]:
    if config.model.config and config.model.init == "pretrained":
        yield Problem(("model", "config"), "changes the shape of the model, so it needs model.init: random (or auto)")


def _partition(config: ExperimentConfig) -> Iterator[Problem]:
    partition = config.partition
    for scheme, key in (("column", "column"), ("explicit", "shards")):
        here = getattr(partition, key) is not None
        if partition.scheme == scheme and not here:
            yield Problem(("partition", "scheme"), f"scheme {scheme} needs partition.{key}")
        if partition.scheme != scheme and here:
            yield Problem(("partition", key), f"is only used with scheme: {scheme}, but scheme is {partition.scheme}")
    if partition.scheme != "column" and partition.unmatched != "error":
        yield Problem(("partition", "unmatched"), f"is only used with scheme: column, but scheme is {partition.scheme}")
    if partition.scheme == "explicit" and partition.shards is not None:
        yield from shard_problems(config, partition.shards)


def _training(config: ExperimentConfig) -> Iterator[Problem]:
    training = config.training
    if training.labels == "client" and config.mode != "split-federated":
        yield Problem(
            ("training", "labels"),
            f"labels: client needs mode: split-federated, but mode is {config.mode}; use labels: server",
        )


def _early_stopping(config: ExperimentConfig) -> Iterator[Problem]:
    if config.training.early_stopping is None or config.holdout.validation is not None:
        return
    own = ("validation_files", "validation_split")
    for name, group in config.task_groups.items():
        if all(getattr(group.data, key) is None for key in own):
            problem = (
                f"goes by validation parts, and task group {name} has none; set holdout.validation (0.1, or a number of"
                f" rows), or {' or '.join(own)} of its data"
            )
            yield Problem(("training", "early_stopping"), problem)
            return


def _faults(config: ExperimentConfig) -> Iterator[Problem]:
    faults, training, kinds = config.faults, config.training, config.client_kinds()
    specs = config.expanded_clients() if faults.slow or faults.crash_at else []
    # by template, its first client
    known = {s.name: s for s in specs} | {s.key.removeprefix("clients."): s for s in kinds}
    for what in ("slow", "crash_at"):
        for name in getattr(faults, what):
            if name not in known:
                yield Problem(("faults", what, name), f"no client has this name{did_you_mean(name, known)}")
            elif what == "slow" and config.mode not in ("split-federated", "centralized"):
                problem = f"only mode: split-federated has a virtual clock, not {config.mode}; remove it"
                yield Problem(("faults", what, name), problem)
            elif what == "slow" and known[name].device is None:
                yield Problem(("faults", what, name), "is a factor on a device's times; give this client a device")
    for name, crash in faults.crash_at.items():
        if crash.step >= training.local_steps:
            last = training.local_steps - 1
            yield Problem(("faults", "crash_at", name, "step"), f"steps of a round are 0 to {last}, got {crash.step}")
        if crash.round > training.rounds:
            problem = f"must be at most training.rounds, {training.rounds}, got {crash.round}"
            yield Problem(("faults", "crash_at", name, "round"), problem)
    alone = config.mode == "centralized"
    for key, default in (("faults", FaultsConfig()), ("screen", ScreenConfig())):
        if alone and getattr(config, key) != default:
            yield Problem(
                (key,), "mode: centralized has one learner a task group and no clients that could fail; remove it"
            )
    if config.mode != "split-federated" and training.deadline is not None:
        problem = f"goes by the virtual clock, which mode: {config.mode} does not have; remove it, or use"
        yield Problem(("training", "deadline"), f"{problem} mode: split-federated")
    elif training.deadline is not None and (without := [kind.name for kind in kinds if kind.device is None]):
        yield Problem(
            ("training", "deadline"),
            f"needs a device for every client, and {without[0]} has none; give it one (atlas devices)",
        )
    sizes = config.group_sizes()
    groups = [sizes.get(name, 0) for name in config.task_groups]
    cohort = len(groups) if alone else sum(cohort_size(training.cohort, size) for size in groups)
    if training.min_clients > cohort:
        problem = f"a cohort has {cohort} clients here, so no round could count with {training.min_clients}; set fewer"
        yield Problem(("training", "min_clients"), problem)


def _clustering(config: ExperimentConfig) -> Iterator[Problem]:
    rule = config.clustering
    if rule is None:
        return
    clients = sum(client.count for client in config.clients.values())
    if rule.k != "auto" and rule.k > clients:
        yield Problem(("clustering", "k"), f"must be auto or at most {clients}, the number of clients, got {rule.k}")
    if rule.by in ("oracle", "single") and rule.k != "auto":
        yield Problem(("clustering", "k"), f"is not used with by: {rule.by}, which says how many clusters there are")
    if rule.every is not None and rule.by != "fingerprints":
        yield Problem(("clustering", "every"), f"by: {rule.by} finds the same clusters each time; remove it")
    if rule.by == "fingerprints" and config.mode == "federated":
        yield Problem(
            ("clustering", "by"), "fingerprints are taken through the split, and mode is federated; use a control"
        )


def _engine(config: ExperimentConfig) -> Iterator[Problem]:
    if config.engine.prefix_cache is not None and config.mode != "split-federated":
        problem = f"only clients of mode: split-federated have a prefix cache, not those of {config.mode}; remove it"
        yield Problem(("engine", "prefix_cache"), problem)
    for key in ("prefix_cache", "offload", "pinned", "compile", "cuda_graphs"):
        if config.engine.name == "ray" and getattr(config.engine, key):
            yield Problem(("engine", key), "is for clients in one process, and engine.name is ray; remove it")
    against = {
        "replays what is not compiled, and engine.compile is true; set one of them false": config.engine.compile,
        "replays passes that clients share, and with engine.fuse: off they share none": config.engine.fuse == "off",
    }
    for problem, holds in against.items():
        if config.engine.cuda_graphs and holds:
            yield Problem(("engine", "cuda_graphs"), problem)
    if (address := config.engine.address) is not None and not _ADDRESS.fullmatch(address):
        yield Problem(("engine", "address"), f"must be auto or host:port, got {address!r}")


def _audit(config: ExperimentConfig) -> Iterator[Problem]:
    if config.audit is None:
        return
    record, names = config.audit.record, dict.fromkeys(spec.name for spec in config.expanded_clients())
    for i, number in enumerate(record.rounds):
        if number > config.training.rounds:
            problem = f"training has {config.training.rounds} rounds, got {number}"
            yield Problem(("audit", "record", "rounds", i), problem)
    for i, name in enumerate(record.clients if record.clients != "all" else ()):
        if name not in names:
            problem = f"no client is named {name!r}{did_you_mean(name, names)}"
            yield Problem(("audit", "record", "clients", i), problem)
