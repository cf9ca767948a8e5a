"""The aggregation method of a config: its options, and what it cannot be combined with."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from atlas_cli.aggregation.checks import require_parts, require_tensors, term_of, told_extras
from atlas_cli.aggregation.contract import PARTS, BaseMethod, Layer
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import ConfigError
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
    return chosen(options, seed=config.seed, server_memory=memory)


def load_method(name: str) -> type[BaseMethod]:
    """Load the class of a method by its name.

    Raises:
        ConfigError: there is none, or it breaks the contract.
    """
    return load_class("aggregation.methods", name, "Method", BaseMethod, key="aggregation.method", more=require_parts)


def check_server_memory(config: ExperimentConfig, features: Collection[tuple[int, int]]) -> None:
    """Check that every layer can be merged within ``aggregation.server_memory``.

    Args:
        features: (d_in, d_out) of the layers.

    Raises:
        ConfigError: a layer cannot; names the first.
    """
    method = method_of(config)
    for d_in, d_out in dict.fromkeys(features):
        method.require_room(d_in, d_out)


def check_hooks(
    config: ExperimentConfig, features: Mapping[str, tuple[int, int]], ranks: Iterable[Mapping[str, int]]
) -> None:
    """Ask the method what it is asked before and after a first delivery, for adapters of these ranks.

    Raises:
        PluginError: an answer that its contract does not allow.
    """
    method = method_of(config)
    term_of(method)
    for each in {tuple(sorted(r.items())): r for r in ranks}.values():
        layers = {path: Layer(rank, *features[path]) for path, rank in each.items()}
        told, extras = told_extras(method, layers), method.extras_for(next(iter(config.task_groups)), layers)
        require_tensors(method, "extras_for", extras, told.down, "down")


def check_mixing(config: ExperimentConfig) -> None:
    """Refuse to mix groups that do not predict with their adapters alone.

    Raises:
        ConfigError: names the method.
    """
    method, name = method_of(config), config.aggregation.method
    mixable = method.GROUP_ADAPTER and not method.CHANGES_BASE and set(method.TRAINED) == set(PARTS)
    if config.aggregation.cross_group.strength > 0 and method.SENT and not mixable:
        raise ConfigError(
            f"{name} has no group adapters that can be mixed; set it to 0, or use delta-svd, flexlora, zero-pad, "
            "hetlora, lora-fair, trimmed-mean or median",
            key="aggregation.cross_group.strength",
        )


def check_extra_tensors(config: ExperimentConfig) -> None:
    """Refuse methods that send more than adapters if noise protects only adapters.

    Raises:
        ConfigError: names the method.
    """
    if config.privacy.updates is not None and method_of(config).extra_tensors({"": Layer(1, 1, 1)}).up:
        raise ConfigError(
            f"{config.aggregation.method} has clients send more than adapters, which privacy.updates puts no noise on; "
            "use another aggregation.method",
            key="privacy.updates",
        )


def check_screen(config: ExperimentConfig) -> None:
    """Refuse to screen by the norm of updates if none are sent.

    Raises:
        ConfigError: names the method.
    """
    if config.screen.max_norm_ratio is not None and "B" not in method_of(config).SENT:
        sender = config.aggregation.method if config.mode in ("split-federated", "federated") else f"mode {config.mode}"
        raise ConfigError(f"with {sender} no client sends an update that has a norm", key="screen.max_norm_ratio")


def check_clusters(config: ExperimentConfig, cuts: Collection[int]) -> None:
    """Refuse clusters whose clients could not be merged.

    Raises:
        ConfigError: there are several split layers, or the method cannot continue with another group's values.
    """
    rule, method, name = config.clustering, method_of(config), config.aggregation.method
    if rule is None or rule.by == "oracle":
        return
    if len(cuts) > 1:
        raise ConfigError(
            "clients of any cut may come into one cluster, and clusters need one split layer; give all clients one, or "
            "use by: oracle",
            key="clustering.by",
        )
    if rule.every is not None and method.SENT and (method.CHANGES_BASE or not method.GROUP_ADAPTER):
        raise ConfigError(
            f"{name} keeps what clients learned in more than the adapters of a cluster, which cannot be taken along to "
            "another cluster; remove it to cluster once, or use another aggregation.method",
            key="clustering.every",
        )


def check_cuts(config: ExperimentConfig, group: str, key: str) -> None:
    """Refuse a method that is not defined for a layer on some clients that lies on the server for others.

    Raises:
        ConfigError: names the client that differs.
    """
    method = method_of(config)
    defined = method.CUTS_MAY_DIFFER and not method.CHANGES_BASE and set(method.SENT) == set(PARTS)
    if method.SENT and not defined:
        raise ConfigError(
            f"clients of {group} have different split layers, and {config.aggregation.method} is not defined for a "
            "layer that lies on the server for some of them; give them one split_layer, or another aggregation.method",
            key=key,
        )
