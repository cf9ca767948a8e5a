"""What a config's rounds are merged by: the aggregation method, the rule by which groups move, the pull on clients."""

from __future__ import annotations

from collections.abc import Callable

from atlas_cli import discovery
from atlas_cli.aggregation.checks import require_parts, require_turns
from atlas_cli.aggregation.contract import BaseMethod
from atlas_cli.aggregation.merge_optimizer import MergeOptimizer, Rule
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.plugins import checked_options, load_class
from atlas_cli.units import parse_bytes


def method_of(config: ExperimentConfig) -> BaseMethod:
    """Build the aggregation method of a config; baselines in which nothing is exchanged have ``none``.

    Raises:
        ConfigError: the method breaks its contract, or does not have an option.
    """
    chosen, limit = load_method(config.aggregation.method), config.aggregation.server_memory
    name, given = config.aggregation.method, config.aggregation.options
    options = checked_options(chosen.Options, given, "aggregation.options", name)
    memory = None if limit is None else int(parse_bytes(limit))
    if config.mode in ("local-only", "centralized"):
        return load_method("none")()
    made = chosen(options, seed=config.seed, server_memory=memory)
    require_turns(made)
    return made


def merge_optimizer_of(config: ExperimentConfig) -> MergeOptimizer | None:
    """Build the rule by which groups move by merged changes; None where they move as the method has it."""
    rule, method, steps = Rule.of(config.aggregation.optimizer), method_of(config), counted_steps(config)
    return MergeOptimizer(rule, method, steps) if method.SENT and not (rule.is_plain and not steps) else None


def counted_steps(config: ExperimentConfig) -> dict[str, float]:
    """What FedNova divides clients' changes by: t_k = sum_i (1 - m^i) / (1 - m) over a round's steps i = 1, 2, ...

    m is the momentum of ``sgd``, with which a gradient acts in all later steps, too; the steps of AdamW count as one
    each. Empty where changes are not normalised, or all clients take equal steps.
    """
    if config.aggregation.normalise == "none":
        return {}
    rule = config.training.client_optimizer
    m = rule.momentum if rule.name == "sgd" else 0.0
    if len({kind.local_steps for kind in config.client_kinds()}) < 2:
        return {}
    steps = {spec.name: spec.local_steps for spec in config.expanded_clients()}
    return {name: sum((1 - m**i) / (1 - m) for i in range(1, count + 1)) for name, count in steps.items()}


def pull_of(config: ExperimentConfig) -> float:
    """The strength mu with which clients are pulled back to what they were delivered; 0 where they are not."""
    drift = config.training.drift
    if drift.name != "fedprox":
        return 0.0
    return 0.01 if drift.mu is None else drift.mu


def shares_gradients(config: ExperimentConfig) -> bool:
    """Whether clients share the gradients of the first local step of each round, and are corrected by them."""
    return config.training.drift.name == "scaffold"


def methods_that(fit: Callable[[BaseMethod], bool]) -> str:
    """The names of atlas' own methods of which ``fit`` is true, for an error that says what to use instead."""
    return ", ".join(name for name in discovery.own_names("aggregation.methods") if fit(load_method(name)()))


def load_method(name: str) -> type[BaseMethod]:
    """Load the class of a method by its name.

    Raises:
        ConfigError: there is none, or it breaks the contract.
    """
    return load_class("aggregation.methods", name, "Method", BaseMethod, key="aggregation.method", more=require_parts)
