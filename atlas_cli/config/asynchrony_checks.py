"""Checks of ``training.asynchrony`` against the rest of a config."""

from __future__ import annotations

from collections.abc import Iterator

from atlas_cli.config.cohorts import cohort_size
from atlas_cli.config.problems import Problem
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.config.schema.faults import ScreenConfig
from atlas_cli.config.schema.privacy import PrivacyConfig
from atlas_cli.config.strict_yaml import KeyPath

_DRIFT = {
    "fedprox": "pulls clients back to where they began, and of a client under way neither a checkpoint nor another "
    "process has that",
    "scaffold": "corrects gradients by those of clients that began together",
}


def asynchrony_problems(config: ExperimentConfig) -> Iterator[Problem]:
    """What clients that wait for nobody cannot do, or what would mean nothing with them."""
    training, rule = config.training, config.training.asynchrony
    if rule is None:
        return
    here = ("training", "asynchrony")
    if config.mode != "split-federated":
        problem = f"goes by the virtual clock, which mode: {config.mode} does not have; remove it, or use"
        yield Problem(here, f"{problem} mode: split-federated")
        return
    if without := [kind.name for kind in config.client_kinds() if kind.device is None]:
        yield Problem(here, f"needs a device for every client, and {without[0]} has none; give it one (atlas devices)")
    sizes = [cohort_size(training.cohort, n) for n in config.group_sizes().values()]
    if rule.buffer > max(sizes):
        problem = f"must be at most {max(sizes)}, the clients of a group that train at a time, got {rule.buffer}"
        yield Problem((*here, "buffer"), problem)
    if training.min_clients > (most := min(rule.buffer, *sizes)):
        some = "1 update" if most == 1 else f"{most} updates"
        problem = f"with training.asynchrony a round may merge only {some}, and then would not count; set it to {most}"
        larger = ", or a larger training.asynchrony.buffer" if most < min(sizes) else ""
        yield Problem(("training", "min_clients"), f"{problem} or less{larger}")
    if training.server_update == "pooled":
        problem = "a pooled step waits for all clients, and with training.asynchrony nobody waits; use per-client or "
        yield Problem(("training", "server_update"), f"{problem}sequential")
    for path, why in _not_together(config):
        yield Problem(path, f"{why}; remove it, or training.asynchrony")


def _not_together(config: ExperimentConfig) -> Iterator[tuple[KeyPath, str]]:
    if config.training.deadline is not None:
        yield ("training", "deadline"), "no round waits for a client that a deadline could cut off"
    if (drift := config.training.drift.name) != "none":
        yield ("training", "drift", "name"), f"{drift} {_DRIFT[drift]}"
    if config.screen != ScreenConfig():
        yield ("screen",), "norms of changes of different versions cannot be held against each other"
    if config.privacy != PrivacyConfig(delta=config.privacy.delta):
        yield ("privacy",), "no mechanism is accounted for with clients that take part at their own pace"
    for name, client in config.clients.items():
        if client.learns != "backprop":
            yield ("clients", name, "learns"), f"what {client.learns} sends is not on the clock before it is computed"
    if config.aggregation.cross_group.strength:
        yield ("aggregation", "cross_group"), "groups are merged at different times"
    if config.clustering is not None:
        yield ("clustering",), "clusters are found among clients that hold the same version"
    if config.audit is not None:
        yield ("audit",), "messages are recorded by rounds of a cohort"
    if config.engine.offload:
        yield ("engine", "offload"), "clients under way are not idle between rounds"
