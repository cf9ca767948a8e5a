"""Checks of the keys that add something to rounds and merges: none is taken that could not have an effect.

A baseline (``mode``) takes the file of the experiment that it is compared with, so what describes the merge itself
(``aggregation.method``, ``options``, ``weights``, ``server_memory``, ``error_ledger``), what is the server's of a split
and the share of a cohort stay as they are there. What adds something to rounds is refused where nothing comes of it.
Values with which a key changes nothing (a strength of 0, equal local steps) are no contradiction: sweeps go through
them.
"""

from __future__ import annotations

from collections.abc import Iterator

from atlas_cli.config.problems import Problem
from atlas_cli.config.schema.aggregation import AggregationConfig, CrossGroupConfig
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.config.schema.faults import ScreenConfig
from atlas_cli.config.schema.training import DriftConfig, OptimizerConfig

# the keys of aggregation.optimizer that each rule uses, besides lr
_OF_RULE = {
    "sgd": (),
    "momentum": ("momentum", "rank"),
    "adam": ("momentum", "decay", "tau", "second", "rank"),
    "yogi": ("momentum", "decay", "tau", "second", "rank"),
    "adagrad": ("momentum", "tau", "second", "rank"),
}


def merge_problems(config: ExperimentConfig) -> Iterator[Problem]:
    """Keys without an effect, and a rule of the server that lacks its rate."""
    why = _merges_nothing(config)
    if why is not None:
        yield from _added_to_merges(config, why)
    for check in (_merge_optimizer, _drift, _mixing) if why is None else ():
        yield from check(config)
    yield from _weights_of_frozen(config)


def optimizer_problems(config: ExperimentConfig) -> Iterator[Problem]:
    """Keys that the optimizer of a side does not use."""
    for side in ("client_optimizer", "server_optimizer"):
        rule: OptimizerConfig = getattr(config.training, side)
        for i, beta in enumerate(rule.betas):
            if not 0 <= beta < 1:
                yield Problem(("training", side, "betas", i), f"must be at least 0 and less than 1, got {beta:g}")
        for key, user in (("betas", "adamw"), ("momentum", "sgd")):
            if rule.name != user and getattr(rule, key) != OptimizerConfig.model_fields[key].default:
                problem = f"is only used with {user}, but name is {rule.name}; set name: {user}, or remove it"
                yield Problem(("training", side, key), problem)


def _merges_nothing(config: ExperimentConfig) -> str | None:
    if config.mode in ("local-only", "centralized"):
        return f"mode: {config.mode} merges nothing"
    if all(client.learns == "frozen" for client in config.clients.values()):
        return "all clients learn: frozen, so that nothing is merged"
    return None


def _added_to_merges(config: ExperimentConfig, why: str) -> Iterator[Problem]:
    plain = AggregationConfig()
    for key in ("normalise", "optimizer", "cross_group"):
        if getattr(config.aggregation, key) != getattr(plain, key):
            yield Problem(("aggregation", key), f"is of merges, and {why}; remove it")
    if config.screen != ScreenConfig() and config.mode != "centralized":
        yield Problem(("screen",), f"leaves updates out of merges, and {why}; remove it")
    if config.training.drift != DriftConfig():
        yield Problem(("training", "drift"), f"goes by what clients are delivered, and {why}; remove it")


def _merge_optimizer(config: ExperimentConfig) -> Iterator[Problem]:
    rule, key = config.aggregation.optimizer, ("aggregation", "optimizer")
    for name in ("momentum", "decay", "tau", "second", "rank"):
        if getattr(rule, name) is not None and name not in _OF_RULE[rule.name]:
            users = ", ".join(user for user, names in _OF_RULE.items() if name in names)
            problem = f"is only used with {users}, but name is {rule.name}; set name to one of them, or remove it"
            yield Problem((*key, name), problem)
    no_sum = rule.momentum == 0 or (rule.momentum is None and rule.name == "adagrad")
    if rule.rank is not None and no_sum:
        yield Problem((*key, "rank"), "is of the running sum, which is kept with a momentum above 0; remove it")
    if rule.lr is None and rule.name not in ("sgd", "momentum"):
        problem = f"{rule.name} needs a rate, about what a step adds to a number of dW; start from 1e-4"
        yield Problem((*key, "lr"), problem)


def _drift(config: ExperimentConfig) -> Iterator[Problem]:
    drift = config.training.drift
    if drift.mu is not None and drift.name != "fedprox":
        problem = f"is only used with fedprox, but name is {drift.name}; set name: fedprox, or remove it"
        yield Problem(("training", "drift", "mu"), problem)


def _mixing(config: ExperimentConfig) -> Iterator[Problem]:
    mixing, key = config.aggregation.cross_group, ("aggregation", "cross_group")
    by = config.clustering.by if config.clustering is not None else "oracle"
    for name in ("temperature", "graph") if mixing.strength == 0 else ():
        if getattr(mixing, name) != getattr(CrossGroupConfig(), name):
            yield Problem((*key, name), "groups are mixed with a strength above 0; set strength, or remove it")
    if mixing.graph == "laplacian" and mixing.temperature != 1:
        yield Problem((*key, "temperature"), "is only used with graph: softmax; remove it")
    if mixing.strength > 0 and (by == "single" or (by == "oracle" and len(config.task_groups) == 1)):
        yield Problem((*key, "strength"), "there is one group, and no other that it could be mixed with; remove it")


def _weights_of_frozen(config: ExperimentConfig) -> Iterator[Problem]:
    for name, client in config.clients.items():
        if client.learns == "frozen" and client.weight != 1:
            problem = "a client that learns: frozen sends nothing that could be weighed; remove it"
            yield Problem(("clients", name, "weight"), problem)
