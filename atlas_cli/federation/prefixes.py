"""Which clients of a run have frozen blocks below everything that changes, and so a use for the prefix cache."""

from __future__ import annotations

from collections.abc import Mapping

from atlas_cli.config.schema import ExperimentConfig
from atlas_cli.config.units import parse_bytes
from atlas_cli.federation.client import SplitClient
from atlas_cli.federation.prefix_cache import Prefix, PrefixCache
from atlas_cli.federation.unsplit import UnsplitClient
from atlas_cli.models.placement import layer_of
from atlas_cli.planning.merging import method_of
from atlas_cli.planning.plan import ClientPlan, Plan


def give_prefixes(
    config: ExperimentConfig, plan: Plan, clients: Mapping[str, SplitClient | UnsplitClient]
) -> PrefixCache | None:
    """Let clients run the blocks that never change through one cache; None where the config asks for no cache."""
    if config.engine.prefix_cache is None:
        return None
    cache = PrefixCache(parse_bytes(config.engine.prefix_cache), config.output.dir)
    for client in plan.clients:
        party, first = clients[client.name], first_changing(config, plan, client)
        if isinstance(party, SplitClient) and first:
            autocast = config.training.autocast
            party.prefix = Prefix(cache, party.base, party.adapters, first, party.cut, autocast)
    return cache


def first_changing(config: ExperimentConfig, plan: Plan, client: ClientPlan) -> int:
    """The lowest block of a client that has an adapter, or whose frozen weights a merge may change.

    Where a method merges into the base, a client gets the changes of all that it is merged with: of its task group, or
    of anybody where clusters are found.
    """
    changing = [client]
    if method_of(config).CHANGES_BASE:
        changing = list(plan.clients) if config.clustering is not None else plan.members(client.task_group)
    return min(layer_of(path, plan.family) for each in changing for path in each.ranks)


def without_prefix(config: ExperimentConfig, plan: Plan) -> list[str]:
    """Why the cache does nothing for some clients, a sentence a cause."""
    causes: dict[str, list[str]] = {}
    for client in plan.clients if config.engine.prefix_cache is not None else ():
        if first_changing(config, plan, client) == 0:
            own = min(layer_of(path, plan.family) for path in client.ranks) == 0
            cause = "block 0 has an adapter" if own else f"{config.aggregation.method} may change block 0 of its base"
            causes.setdefault(cause, []).append(client.name)
    return [f"engine.prefix_cache does nothing for {', '.join(names)}: {cause}" for cause, names in causes.items()]
