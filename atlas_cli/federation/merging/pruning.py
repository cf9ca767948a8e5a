"""Methods that lower the ranks of clients after a round (hetlora)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from atlas_cli.aggregation.contract import absorb, scales_of, truncated
from atlas_cli.federation.client_state.state import Party
from atlas_cli.federation.merging.aggregator import Aggregator


def prune(aggregator: Aggregator, parties: Mapping[str, Party], cohort: Iterable[str]) -> None:
    """Prune the clients' adapters after their local steps, as the method decides; their optimizers start anew."""
    if not aggregator.method.PRUNES:
        return
    for client in cohort:
        member = aggregator.members[client]
        scales, ranks = scales_of(member.adapters), member.ranks
        began = truncated(aggregator.merged[member.group], ranks)
        kept = aggregator.method.pruned(began, absorb(member.adapters.state(), scales))
        smaller = {path: rank for path, rank in kept.items() if rank != ranks[path]}
        for path, rank in smaller.items():
            member.adapters.adapters[path].shrink(rank)
        if smaller:
            parties[client].reset_optimizer()
