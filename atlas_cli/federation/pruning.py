"""Methods that act on a client while and after it trains: a penalty on its loss, and ranks that shrink (hetlora)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from atlas_cli.aggregation._base import absorb, scales_of, truncated
from atlas_cli.config.schema import ExperimentConfig
from atlas_cli.federation.aggregator import Aggregator
from atlas_cli.federation.client import SplitClient
from atlas_cli.federation.unsplit import UnsplitClient
from atlas_cli.models.lora import AdapterSet
from atlas_cli.planning.merging import method_of, options_of

Party = SplitClient | UnsplitClient


def penalty_of(config: ExperimentConfig) -> Callable[[AdapterSet], Tensor] | None:
    """What clients add to their loss; None where the method adds nothing."""
    method, options = method_of(config), options_of(config)
    if not getattr(options, "penalty", 0.0):
        return None

    def penalty(adapters: AdapterSet) -> Tensor:
        state = {f"{path}.{name}": p for path, each in adapters.adapters.items() for name, p in each.named_parameters()}
        total: Tensor = method.penalty(absorb(state, scales_of(adapters)), options)
        return total

    return penalty


def prune(aggregator: Aggregator, parties: Mapping[str, Party], cohort: Iterable[str]) -> None:
    """After their local steps clients drop what the method says; their optimizers start anew with what is left."""
    if not hasattr(aggregator.method, "pruned"):
        return
    for client in cohort:
        member = aggregator.members[client]
        scales, ranks = scales_of(member.adapters), member.ranks
        began = truncated(aggregator.merged[member.group], ranks)
        kept = aggregator.method.pruned(began, absorb(member.adapters.state(), scales), aggregator.options)
        shrink(parties[client], member.adapters, {path: rank for path, rank in kept.items() if rank != ranks[path]})


def shrink(party: Party, adapters: AdapterSet, ranks: Mapping[str, int]) -> None:
    """Give some of a client's adapters a smaller rank."""
    for path, rank in ranks.items():
        adapters.adapters[path].shrink(rank)
    if ranks:
        party.reset_optimizer()
