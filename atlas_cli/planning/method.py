"""What a config's rounds are merged by: the aggregation method, the rule by which groups move, the pull on clients."""

from __future__ import annotations

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
    rule, method = Rule.of(config.aggregation.optimizer), method_of(config)
    return None if rule.is_plain or not method.SENT else MergeOptimizer(rule, method)


def pull_of(config: ExperimentConfig) -> float:
    """The strength mu with which clients are pulled back to what they were delivered; 0 where they are not."""
    drift = config.training.drift
    if drift.name != "fedprox" or config.mode in ("local-only", "centralized"):
        return 0.0
    return 0.01 if drift.mu is None else drift.mu


def shares_gradients(config: ExperimentConfig) -> bool:
    """Whether clients share the gradients of the first local step of each round, and are corrected by them."""
    return config.training.drift.name == "scaffold" and config.mode not in ("local-only", "centralized")


def load_method(name: str) -> type[BaseMethod]:
    """Load the class of a method by its name.

    Raises:
        ConfigError: there is none, or it breaks the contract.
    """
    return load_class("aggregation.methods", name, "Method", BaseMethod, key="aggregation.method", more=require_parts)
