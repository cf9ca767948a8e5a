"""Start a task group from a PEFT adapter (``task_groups.NAME.adapter``), such as one that an earlier run left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.federation.federation import Federation, WarmStart
from atlas_cli.federation.warm_head import load_head, require_same_task
from atlas_cli.hashing import sha256_file
from atlas_cli.models.adapters.lora import LoRAAdapter
from atlas_cli.models.adapters.origin import read_origin, require_same_base
from atlas_cli.models.adapters.peft_format import TENSORS
from atlas_cli.models.adapters.peft_reading import Factors, read_head, read_peft
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.frozen.meta_model import meta_model
from atlas_cli.planning.plan import Plan

if TYPE_CHECKING:
    from atlas_cli.data.prepare import PreparedGroup
    from atlas_cli.federation.federation import Federation


@torch.no_grad()
def start_from(federation: Federation, group: str, folder: str) -> WarmStart:
    """Load the values in ``folder`` into a group's adapter, the server's adapters and the head.

    A layer of smaller rank is padded with zeros, which leaves its update unchanged; layers that the folder lacks start
    as usual, and so does the head where it has none.

    Raises:
        ResourceError: the folder is not a LoRA adapter for this model and its weights.
        ConfigError: it adapts a layer, or has a rank or classes, that this experiment has no room for.
    """
    key = f"task_groups.{group}.adapter"
    aggregator, server, path = federation.aggregator, federation.server, Path(folder)
    with _blaming(key):
        origin = read_origin(path)
        if origin is not None:
            require_same_base(path, origin, federation.base)
        found, saved = read_peft(folder, federation.base), read_head(path)
    upper = server.adapters_above(group, 0).adapters
    room = {**upper, **aggregator.groups[group].adapters}
    require_room(folder, found, {layer: adapter.rank for layer, adapter in room.items()}, key)
    for layer, (A, B, scale) in found.items():
        _load(room[layer], A, B, scale)
        if not torch.isfinite(room[layer].lora_B).all():
            raise ConfigError(f"{folder}: at its scale of {scale:g} lora_B of {layer} is beyond float32", key=key)
    aggregator.start_group(group)
    if saved:
        task = federation.data[group].task
        origin = require_same_task(folder, origin, federation.config.task_groups[group].task, task, key)
        for head in _heads(federation, group):
            load_head(head, saved, origin, task, folder, key)
    base = "unknown" if origin is None else "the same by hash"
    return WarmStart(folder, sha256_file(path / TENSORS), base, "by class name" if saved else "new")


def check_adapters(plan: Plan) -> None:
    """Check that the adapters that task groups start from can be read and fit; weights are not compared.

    Raises:
        ConfigError, ResourceError: as ``start_from``.
    """
    model, _ = meta_model(plan.hf_config, plan.family)
    base = FrozenBase(model, None, plan.family, plan.config.model.name, plan.init, "")
    for name, group in plan.config.task_groups.items():
        if group.adapter is not None:
            room = {**plan.server_ranks(name), **plan.group_ranks(name)}
            key = f"task_groups.{name}.adapter"
            with _blaming(key):
                found = read_peft(group.adapter, base)
            require_room(group.adapter, found, room, key)


def check_heads(plan: Plan, data: Mapping[str, PreparedGroup]) -> None:
    """Check that the heads that task groups start from fit their tasks and classes.

    Raises:
        ConfigError, ResourceError: as ``start_from``.
    """
    for name, group in plan.config.task_groups.items():
        if group.adapter is not None:
            key = f"task_groups.{name}.adapter"
            with _blaming(key):
                saved, origin = read_head(Path(group.adapter)), read_origin(Path(group.adapter))
            if saved:
                require_same_task(group.adapter, origin, group.task, data[name].task, key)


@contextmanager
def _blaming(key: str) -> Iterator[None]:
    """Say which key of the config names the folder that cannot be used."""
    try:
        yield
    except ResourceError as error:
        raise ResourceError(f"{key}: {error}") from None


def require_room(folder: str, found: Mapping[str, Factors], ranks: Mapping[str, int], key: str) -> None:
    """Check that all layers of an adapter are adapted in this experiment, with at least its rank.

    Args:
        ranks: of the task group, by layer.

    Raises:
        ConfigError: names the layer.
    """
    for layer, (A, _, _) in found.items():
        if layer not in ranks:
            raise ConfigError(
                f"{folder} adapts {layer}, which this experiment does not; see lora.targets, ranks and server.rank",
                key=key,
            )
        if A.shape[0] > ranks[layer]:
            raise ConfigError(
                f"{folder} has rank {A.shape[0]} at {layer}, above the group's {ranks[layer]}; raise it", key=key
            )


def _load(adapter: LoRAAdapter, A: Tensor, B: Tensor, scale: float) -> None:
    rank = A.shape[0]
    adapter.lora_A[:rank] = A.to(adapter.lora_A.device)
    adapter.lora_B.zero_()
    adapter.lora_B[:, :rank] = (scale / adapter.scaling) * B.to(adapter.lora_B.device)


def _heads(federation: Federation, group: str) -> list[nn.Module]:
    held = [federation.aggregator.heads.get(group), federation.server.heads.get(group)]
    return [head for head in held if head is not None]
