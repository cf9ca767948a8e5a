"""Builds a client with fresh adapters and a server to measure gradients; no party of the federation is changed."""

from __future__ import annotations

import copy

from atlas_cli.errors import ConfigError
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.parties.party import Party
from atlas_cli.federation.parties.setting import Setting
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.federation.parties.split_server import SplitServer


def probe(federation: Federation, name: str, rank: int, fresh: bool = False) -> tuple[SplitClient, SplitServer]:
    """Build a client with fresh adapters and a server to measure gradients.

    With ``fresh`` the server's adapters and head also have their initial values; else they have the present ones.
    """
    with federation.at_hand([name]):
        return _probe(federation, federation.clients[name], name, rank, fresh)


def _probe(federation: Federation, party: Party, name: str, rank: int, fresh: bool) -> tuple[SplitClient, SplitServer]:
    live, config = federation.server, federation.config
    if not federation.split:
        raise ConfigError("layers are probed through the split; use split-federated", key="mode")
    group = federation.group_of(name)
    task = federation.data[group].task
    # dropout would only add spread, and a pooled server does not step before it is told to
    lora = config.lora.model_copy(update={"dropout": 0.0})
    training = config.training.model_copy(update={"server_update": "pooled"})
    setting = Setting(lora, training, config.seed, federation.device)
    rank = min(rank, *(min(features) for features in federation.plan.features.values()))
    ranks = setting.ranks(party.base, rank, range(party.cut), "lora.rank")
    client = SplitClient(name, party.base, party.cut, ranks, setting, task=task, head=copy.deepcopy(party.head))
    server_rank = config.server.rank if party.cut < federation.base.n_layers else 0
    server = SplitServer(federation.base, party.cut, {group: task}, setting, server_rank)
    if not fresh:
        server.groups[group].take_values(live.groups[federation.part_of(name)])
    server.begin_round({name: group}, 0)
    return client, server
