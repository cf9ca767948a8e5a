"""Regroups clients by clusters: a new cluster starts from what its clients' former groups have learned.

A cluster's adapter is the mean of what its clients' former groups had, sum_k w_k dW_k, cut to its rank; exactly that of
the one group that they all come from. So is a head's, and the server's LoRA's, for the clients of one task group that
are in one cluster: heads of other tasks have other outputs. Clients receive the new values with their next delivery.
    Optimizer moments stay where the clients stay together, and start anew elsewhere.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from atlas_cli.aggregation.contract import Factors, release, scales_of, truncated
from atlas_cli.aggregation.low_rank import redistribute, weighted_sum
from atlas_cli.federation.client_state.member import restand
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.merging.aggregator import Aggregator
from atlas_cli.federation.merging.coded_rows import RowsCodec
from atlas_cli.federation.merging.merged_group import MergedGroup, factors_to_merge
from atlas_cli.federation.parties.setting import Setting
from atlas_cli.federation.parties.trainables import Trainables
from atlas_cli.models.adapters.lora import AdapterSet
from atlas_cli.tasks.contract import BaseTask

Shares = dict[str, float]  # of former groups, by what their clients weigh; they sum to 1


def regroup(federation: Federation, clusters: Mapping[str, str]) -> list[str]:
    """Put every client into its cluster, by name; returns the clients whose cluster changed."""
    aggregator = federation.aggregator
    members = aggregator.members
    groups = {client: member.group for client, member in members.items()}
    parts = {client: member.part for client, member in members.items()}
    moved = [client for client, member in members.items() if member.cluster != clusters[client]]
    aggregator.group_weights.assign(clusters)
    federation.last_used.record(members)
    _regroup_heads(federation, parts)
    _regroup_adapters(federation, groups)
    if aggregator.optimizer is not None:
        now = {client: member.group for client, member in members.items()}
        now_parts = {client: member.part for client, member in members.items()}
        aggregator.optimizer.keep_only(_unchanged(groups, now), _unchanged(parts, now_parts))
    return moved


def _regroup_adapters(federation: Federation, before: Mapping[str, str]) -> None:
    aggregator = federation.aggregator
    now = {client: member.group for client, member in aggregator.members.items()}
    groups, aggregator.groups = aggregator.groups, {}
    aggregator.uppers = {}  # with clusters all clients have one split layer, and no layer has two kinds of holders
    parts = {cluster: _shares(aggregator, now, before, cluster) for cluster in sorted(set(now.values()))}
    aggregator.method.regroup(parts)
    for cluster, shares in parts.items():
        first = next(iter(shares))
        if shares.keys() == {cluster} and _clients(now, cluster) == _clients(before, cluster):
            aggregator.groups[cluster] = groups[cluster]
            continue
        merged, adapters = {group: groups[group].merged for group in shares}, _room(federation, _clients(now, cluster))
        # where clients hold all components, the cluster keeps what it can of all, and each client gets others to train
        fresh, one = factors_to_merge(adapters), len(shares) == 1 and not aggregator.method.SELECTS
        values = truncated(merged[first], adapters.ranks) if one else _mean(aggregator, shares, merged, fresh)
        adapters.load(release(values, scales_of(adapters)))
        codec = RowsCodec.of(cluster, aggregator.members, aggregator.method)
        aggregator.groups[cluster] = begun = MergedGroup(adapters, aggregator.method, codec)
        begun.merged = {path: Factors(*(t.clone() for t in f)) for path, f in values.items()}
        begun.version = groups[first].version if one else 1 + max(groups[group].version for group in shares)
        if not one:
            restand((aggregator.members[client] for client in _clients(now, cluster)), version=-1)


def _regroup_heads(federation: Federation, before: Mapping[str, str]) -> None:
    aggregator, server = federation.aggregator, federation.server
    now = {client: member.part for client, member in aggregator.members.items()}
    heads = aggregator.heads
    aggregator.heads = {}
    trained = server.groups
    groups: dict[str, Trainables] = {}
    tasks: dict[str, BaseTask] = {}
    for part in dict.fromkeys(now.values()):
        shares, clients = _shares(aggregator, now, before, part), _clients(now, part)
        first = next(iter(shares))
        same = shares.keys() == {part} and clients == _clients(before, part)
        if first in heads:
            aggregator.heads[part] = heads[part] if same else copy.deepcopy(heads[first])
            if not same:
                held = [([*heads[p].parameters()], share) for p, share in shares.items()]
                _take_mean([*aggregator.heads[part].parameters()], held)
        if trained:
            groups[part] = trained[part] if same else _join(part, [(trained[p], share) for p, share in shares.items()])
            tasks[part] = federation.data[federation.group_of(clients[0])].task
    server.groups, server.tasks = groups, tasks
    server.heads = {part: each.head for part, each in groups.items() if each.head is not None}


def _join(part: str, former: list[tuple[Trainables, float]]) -> Trainables:
    """The mean of what the server trained, with fresh moments."""
    joined = former[0][0].copy()
    joined.name = part
    _take_mean(joined.parameters(), [(each.parameters(), share) for each, share in former])
    return joined


@torch.no_grad()
def _take_mean(parameters: Sequence[nn.Parameter], former: Sequence[tuple[Sequence[nn.Parameter], float]]) -> None:
    for i, parameter in enumerate(parameters if len(former) > 1 else ()):
        parameter.zero_()
        for each, share in former:
            parameter.add_(each[i], alpha=share)


def _shares(aggregator: Aggregator, now: Mapping[str, str], before: Mapping[str, str], name: str) -> Shares:
    shares: Shares = {}
    for client in _clients(now, name):
        shares[before[client]] = shares.get(before[client], 0.0) + aggregator.members[client].weight
    total = sum(shares.values())
    return {group: weight / total for group, weight in shares.items()}


def _unchanged(before: Mapping[str, str], now: Mapping[str, str]) -> set[str]:
    """The groups, or parts, whose clients are those that they had."""
    return {name for name in now.values() if _clients(now, name) == _clients(before, name)}


def _clients(groups: Mapping[str, str], name: str) -> list[str]:
    return [client for client, group in groups.items() if group == name]


def _room(federation: Federation, clients: list[str]) -> AdapterSet:
    """Fresh adapters at the largest rank of a cluster's clients, as they were planned."""
    ranks: dict[str, int] = {}
    for planned in (federation.plan.by_name[client] for client in clients):
        upper = federation.plan.above(planned.cut) if not federation.split else {}
        own = {**planned.ranks, **upper}
        ranks.update({path: max(rank, ranks.get(path, 0)) for path, rank in own.items()})
    ordered = {path: ranks[path] for path in federation.plan.features if path in ranks}
    return Setting.of(federation.config, federation.device).adapters(federation.base, ordered)


def _mean(
    aggregator: Aggregator, shares: Shares, merged: Mapping[str, Mapping[str, Factors]], fresh: Mapping[str, Factors]
) -> dict[str, Factors]:
    """sum_g share_g dW_g at the ranks of ``fresh``; layers that a former group lacks count for those that have them."""
    values = {}
    for path, current in fresh.items():
        holders = {group: share for group, share in shares.items() if path in merged[group]}
        total = sum(holders.values())
        if not any(merged[group][path].B.any() for group in holders):
            values[path] = current  # nothing is learned yet: A as drawn
        elif "A" not in (*aggregator.method.TRAINED, *aggregator.method.DELIVERED):  # all groups share one
            B = torch.zeros_like(current.B)
            for group, share in holders.items():
                held = merged[group][path].B[:, : current.rank]
                B[:, : held.shape[1]].add_(held, alpha=share / total)
            values[path] = Factors(current.A, B)
        else:
            parts = [(share / total, merged[group][path]) for group, share in holders.items()]
            values[path] = redistribute(weighted_sum(parts, aggregator.method.server_memory), current)
    return values
