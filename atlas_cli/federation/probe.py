"""A client and a server that serves it alone, to measure gradients; no party of the federation is changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from atlas_cli.errors import ConfigError
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.parties.frozen_client import FrozenClient
from atlas_cli.federation.parties.setting import Setting
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.federation.parties.split_server import SplitServer
from atlas_cli.wire.step_codecs import StepCodecs


def probe(federation: Federation, name: str, rank: int, fresh: bool = False) -> tuple[SplitClient, SplitServer]:
    """A client with fresh adapters of one rank, or what the smallest layer takes, and its present head if it has one.

    With ``fresh`` the server's adapters and head also have their initial values; else they have the present ones.
    """
    if not federation.split:
        raise ConfigError("layers are probed through the split; use split-federated", key="mode")
    setting, planned = Setting.of(federation.config, federation.device), federation.plan.by_name[name]
    rank = min(rank, *(min(features) for features in federation.plan.features.values()))
    ranks = setting.ranks(federation.base_of(name), rank, range(planned.cut), "lora.rank")
    with federation.at_hand([name]):
        client, server = pair(federation, name, ranks, copy.deepcopy(federation.clients[name].head))
    if not fresh:
        present = federation.server.groups[federation.part_of(name)]
        server.groups[planned.task_group].take_values(present)
    return client, server


def pair(
    federation: Federation, name: str, ranks: Mapping[str, int], head: nn.Module | None, **training: Any
) -> tuple[SplitClient, SplitServer]:
    """A client with fresh adapters of ``ranks``, by path, and a server for it, as they are before training.

    Args:
        head: of the client, where labels stay there.
        training: keys of the config that are other than in the run.
    """
    config, planned, base = federation.config, federation.plan.by_name[name], federation.base
    # dropout would only add spread, and a pooled server does not step before it is told to
    lora = config.lora.model_copy(update={"dropout": 0.0})
    changed = config.training.model_copy(update={"server_update": "pooled", **training})
    setting = Setting(lora, changed, config.seed, federation.device)
    group = planned.task_group
    tasks = {group: federation.data[group].task}
    own = federation.base_of(name)
    kind = SplitClient if ranks else FrozenClient
    client = kind(name, own, planned.cut, ranks, setting, task=tasks[group], head=head)
    client.wire = StepCodecs.none(base.hidden_size, own.dtype, base.dtype)
    server_rank = config.server.rank if planned.cut < base.n_layers else 0
    server = SplitServer(base, planned.cut, tasks, setting, server_rank)
    server.begin_round({name: group}, 0)
    return client, server
