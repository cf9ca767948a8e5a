"""Decides which clients can use the prefix cache: those with frozen blocks below everything that changes."""

from __future__ import annotations

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.federation.parties.party import Party
from atlas_cli.federation.parties.prefix_cache import Prefix, PrefixCache
from atlas_cli.models.block_paths import layer_of
from atlas_cli.models.frozen.rotary import depends_on_length
from atlas_cli.planning.method import method_of
from atlas_cli.planning.plan import Plan
from atlas_cli.printable import listed
from atlas_cli.runs.directory import folder_of_runs
from atlas_cli.units import parse_bytes

SHOWN = 12  # clients that a sentence names


def prefix_cache_of(config: ExperimentConfig) -> PrefixCache | None:
    """The cache that a config asks for."""
    memory = config.engine.prefix_cache
    return None if memory is None else PrefixCache(parse_bytes(memory), folder_of_runs(config.output.dir))


def give_prefix(cache: PrefixCache | None, config: ExperimentConfig, party: Party, first: int) -> None:
    """Make a client run its blocks below ``first``, which never change, through the cache."""
    if cache is not None and config.mode == "split-federated" and first:
        party.prefix = Prefix(cache, party.base, party.adapters, first, party.cut, config.training.autocast)


def lowest_changing_blocks(config: ExperimentConfig, plan: Plan) -> dict[str, int]:
    """By entry of the config (``ClientPlan.key``), the lowest block of its clients that has an adapter, or whose frozen
    weights a merge may change.

    It is 0 where a text's output depends on its batch. Where a method merges into the base, a client receives the
    changes of all clients it is merged with: those of its task group, or any client where clusters are found.
    """
    if depends_on_length(plan.hf_config, config.training.max_length):  # a text alone may have other positions
        return {kind.key: 0 for kind in plan.kinds}
    own = {c.key: min((layer_of(path, plan.family) for path in c.ranks), default=c.cut) for c in plan.kinds}
    if not method_of(config).CHANGES_BASE:
        return own
    lowest: dict[str | None, int] = {}
    merged = {c.key: c.task_group if config.clustering is None else None for c in plan.kinds}
    for key, group in merged.items():
        lowest[group] = min(own[key], lowest.get(group, own[key]))
    return {key: lowest[group] for key, group in merged.items()}


def without_prefix(config: ExperimentConfig, plan: Plan) -> list[str]:
    """Why some clients cannot use the cache, one sentence per cause."""
    causes: dict[str, list[str]] = {}
    if config.engine.prefix_cache is None:
        return []
    lowest = lowest_changing_blocks(config, plan)
    for client in plan.clients:
        if lowest[client.key] == 0:
            own = any(layer_of(path, plan.family) == 0 for path in client.ranks)
            cause = "block 0 has an adapter" if own else f"{config.aggregation.method} may change block 0 of its base"
            if depends_on_length(plan.hf_config, config.training.max_length):
                cause = "the model's rotary positions depend on the longest text of a batch"
            causes.setdefault(cause, []).append(client.name)
    return [f"engine.prefix_cache does nothing for {listed(names, SHOWN)}: {cause}" for cause, names in causes.items()]
