"""What the server trains on layers that clients of a group adapt, too: where their split layers differ."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from atlas_cli.aggregation.contract import Update
from atlas_cli.federation.client_state.member import Member
from atlas_cli.federation.merging.merged_group import factors_to_merge
from atlas_cli.federation.parties.trainables import Trainables
from atlas_cli.models.adapters.lora import AdapterSet


def contested(upper: Trainables | None, paths: Collection[str]) -> AdapterSet:
    """Of what the server trains for a group, the adapters on layers that are merged."""
    adapters = upper.adapters.adapters if upper is not None else {}
    return AdapterSet({path: adapter for path, adapter in adapters.items() if path in paths})


def updates_of_server(adapters: AdapterSet, members: Iterable[Member]) -> list[Update]:
    """An update for each set of layers that the server serves, with the weight of the clients that it serves there."""
    factors = factors_to_merge(adapters)
    weights: dict[frozenset[str], float] = {}
    for member in members:
        if member.served:
            weights[member.served] = weights.get(member.served, 0.0) + member.weight
    return [
        Update(f"server (for {len(served)} layers)", weight, {p: f for p, f in factors.items() if p in served})
        for served, weight in weights.items()
    ]
