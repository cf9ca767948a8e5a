"""Checks of ``training.asynchrony`` against the rest of a config."""

from __future__ import annotations

from collections.abc import Iterator

from atlas_cli.config.problems import Problem
from atlas_cli.config.schema.engine import EngineConfig
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.config.schema.faults import ScreenConfig
from atlas_cli.config.schema.privacy import PrivacyConfig
from atlas_cli.config.strict_yaml import KeyPath


def asynchrony_problems(config: ExperimentConfig) -> Iterator[Problem]:
    """What clients that wait for nobody cannot do, or what would mean nothing with them."""
    training, rule = config.training, config.training.asynchrony
    if rule is None:
        return
    here = ("training", "asynchrony")
    if config.mode != "split-federated":
        yield Problem(here, f"only mode: split-federated has a virtual clock, not {config.mode}")
        return
    specs = config.expanded_clients()
    if without := [spec.name for spec in specs if spec.device is None]:
        yield Problem(here, f"needs a device for every client, and {without[0]} has none")
    if rule.buffer > len(specs):
        yield Problem((*here, "buffer"), f"must be at most {len(specs)}, the number of clients, got {rule.buffer}")
    if training.min_clients > rule.buffer:
        problem = f"a round has {rule.buffer} updates here (training.asynchrony.buffer), so none could count"
        yield Problem(("training", "min_clients"), problem)
    if len(config.task_groups) > 1:
        yield Problem(here, "is for one task group, which the buffer is of; run the groups as experiments of their own")
    if training.server_update != "sequential":
        problem = "the server cannot wait for clients that wait for nobody; with training.asynchrony use sequential"
        yield Problem(("training", "server_update"), problem)
    for path, why in _not_together(config):
        yield Problem(path, f"{why}; remove it, or training.asynchrony")


def _not_together(config: ExperimentConfig) -> Iterator[tuple[KeyPath, str]]:
    training, engine = config.training, config.engine
    if training.cohort < 1:
        yield ("training", "cohort"), "all clients that are idle start, so no share of them is drawn"
    if training.deadline is not None:
        yield ("training", "deadline"), "no round waits for a client that a deadline could cut off"
    if training.on_nonfinite != "stop":
        yield ("training", "on_nonfinite"), "a client under way has no state of the round's beginning to go back to"
    if training.drift.name != "none":
        yield (
            ("training", "drift", "name"),
            f"{training.drift.name} goes by where all clients of a round began together",
        )
    if config.faults.crash_at:
        yield ("faults", "crash_at"), "a client under way has no state of the round's beginning to go back to"
    if config.screen != ScreenConfig():
        yield ("screen",), "norms of changes of different versions cannot be held against each other"
    if config.privacy != PrivacyConfig(delta=config.privacy.delta, compress=config.privacy.compress):
        yield ("privacy",), "no mechanism is accounted for with clients that take part at their own pace"
    for name, client in config.clients.items():
        if client.learns != "backprop":
            yield ("clients", name, "learns"), f"what {client.learns} sends is not on the clock before it is computed"
    if config.clustering is not None:
        yield ("clustering",), "clusters are found among clients that hold the same version"
    if config.audit is not None:
        yield ("audit",), "messages are recorded by rounds of a cohort"
    if engine.name != EngineConfig().name:
        yield ("engine", "name"), "clients under way are computed in one process"
    if engine.offload:
        yield ("engine", "offload"), "clients under way are not idle between rounds"
