"""Start a task group from a PEFT adapter (``task_groups.NAME.adapter``), such as one that an earlier run left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from atlas_cli.errors import ConfigError
from atlas_cli.models.peft_format import read_head, read_peft

if TYPE_CHECKING:
    from atlas_cli.federation.build import Federation


@torch.no_grad()
def start_from(federation: Federation, group: str, folder: str) -> None:
    """Give a group's adapter, the server's adapters and the head the values in ``folder``.

    A layer of smaller rank is padded with zeros, which leaves its update as it was; layers that the folder lacks start
    as usual.

    Raises:
        ResourceError: the folder is not a LoRA adapter for this model.
        ConfigError: it adapts a layer, or has a rank or classes, that this experiment has no room for.
    """
    key = f"task_groups.{group}.adapter"
    aggregator, server = federation.aggregator, federation.server
    upper = server.groups[group].adapters.adapters if server is not None else {}
    room = {**upper, **aggregator.groups[group].adapters}
    for path, (A, B, scale) in read_peft(folder, federation.base).items():
        if path not in room:
            raise ConfigError(
                f"{folder} adapts {path}, which this experiment does not; see lora and server.rank", key=key
            )
        adapter = room[path]
        rank = A.shape[0]
        if rank > adapter.rank:
            raise ConfigError(
                f"{folder} has rank {rank} at {path}, above the group's {adapter.rank}; raise it", key=key
            )
        adapter.lora_A[:rank] = A.to(adapter.lora_A.device)
        adapter.lora_B.zero_()
        adapter.lora_B[:, :rank] = (scale / adapter.scaling) * B.to(adapter.lora_B.device)
    aggregator.start_group(group)
    for head in _heads(federation, group):
        _load(head, folder, key)


def _heads(federation: Federation, group: str) -> list[nn.Module]:
    held = [federation.aggregator.heads.get(group)]
    if federation.server is not None:
        held.append(federation.server.heads[group])
    return [head for head in held if head is not None]


def _load(head: nn.Module, folder: str, key: str) -> None:
    saved = read_head(Path(folder))
    for name, parameter in head.named_parameters():
        if name in saved:
            if saved[name].shape != parameter.shape:
                held, wanted = tuple(saved[name].shape), tuple(parameter.shape)
                raise ConfigError(f"{name} of the head in {folder} is {held}, expected {wanted}", key=key)
            parameter.copy_(saved[name])
