"""Start a task group from a PEFT adapter (``task_groups.NAME.adapter``), such as one that an earlier run left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from atlas_cli.data.prepare import PreparedGroup
from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.federation.federation import Federation, WarmStart
from atlas_cli.hashing import sha256_file
from atlas_cli.models.adapters.lora import LoRAAdapter
from atlas_cli.models.adapters.origin import ORIGIN, Origin, read_origin, require_same_base
from atlas_cli.models.adapters.peft_format import HEAD, TENSORS
from atlas_cli.models.adapters.peft_reading import Factors, read_head, read_peft
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.frozen.meta_model import meta_model
from atlas_cli.planning.plan import Plan
from atlas_cli.tasks._heads import Classifier, SequencePooling
from atlas_cli.tasks.contract import BaseTask

_ANEW = f"remove {HEAD} and SHA256SUMS from a copy of it to start with a new head"


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
    room = {**upper, **aggregator.groups[group].adapters.adapters}
    require_room(folder, found, {layer: adapter.rank for layer, adapter in room.items()}, key)
    for layer, (A, B, scale) in found.items():
        _load(room[layer], A, B, scale)
        if not torch.isfinite(room[layer].lora_B).all():
            raise ConfigError(f"{folder}: at its scale of {scale:g} lora_B of {layer} is beyond float32", key=key)
    aggregator.groups[group].start()
    if saved:
        task = federation.data[group].task
        origin = require_same_task(folder, origin, federation.config.task_groups[group].task, task, key)
        for head in _heads(federation, group):
            load_head(head, saved, origin, task, folder, key)
    base = "unknown" if origin is None else "the same by hash"
    if origin is not None and origin.quantization != federation.base.quantization:
        base += f", with quantization {origin.quantization} there and {federation.base.quantization} here"
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
    held = [federation.client_heads.get(group), federation.server.heads.get(group)]
    return [head for head in held if head is not None]


def require_same_task(folder: str, origin: Origin | None, name: str, task: BaseTask, key: str) -> Origin:
    """Check that a saved head fits a task: the same task type and the same classes, in any order.

    Args:
        name: task type of the group.
        task: the task, with its classes.

    Raises:
        ConfigError: it does not fit, or the folder does not say.
    """
    if origin is None:
        raise ConfigError(
            f"{folder} has {HEAD} without {ORIGIN}, so that nobody can tell which output is which class; {_ANEW}",
            key=key,
        )
    if origin.task != name:
        raise ConfigError(
            f"the head in {folder} is of {origin.task}, and this group's task is {name}; {_ANEW}", key=key
        )
    if sorted(origin.classes) != sorted(task.classes):
        raise ConfigError(
            f"the head in {folder} has the classes {_listed(origin.classes)}, this group {_listed(task.classes)}; set "
            f"classes of the group to those, or {_ANEW}",
            key=key,
        )
    return origin


@torch.no_grad()
def load_head(
    head: nn.Module, saved: Mapping[str, Tensor], origin: Origin, task: BaseTask, folder: str, key: str
) -> None:
    """Load saved values into a head, matching outputs by class.

    Raises:
        ConfigError: other parameters or shapes, another pooling, or an order of classes that cannot be changed.
    """
    pools = any(isinstance(module, SequencePooling) for module in head.modules())
    if pools and origin.pooling != task.pooling:
        raise ConfigError(
            f"the head in {folder} reads pooling {origin.pooling}, this group {task.pooling}; set pooling: "
            f"{origin.pooling}, or {_ANEW}",
            key=key,
        )
    held = {name: parameter for name, parameter in head.named_parameters() if parameter.requires_grad}
    if held.keys() != saved.keys():
        name = min(held.keys() ^ saved.keys())
        where = f"in {folder} and not in this group's head" if name in saved else f"not in {folder}"
        raise ConfigError(f"{name} of the head is {where}; {_ANEW}", key=key)
    order = [origin.classes.index(name) for name in task.classes]
    by_class = {
        f"{path}.{name}"
        for path, module in head.named_modules()
        if isinstance(module, Classifier)
        for name, _ in module.named_parameters()
        if module.out_features == len(order)
    }
    for name, parameter in held.items():
        if saved[name].shape != parameter.shape:
            shapes = f"{tuple(saved[name].shape)}, expected {tuple(parameter.shape)}"
            raise ConfigError(f"{name} of the head in {folder} is {shapes}", key=key)
        if order != sorted(order) and name not in by_class:
            raise ConfigError(
                f"the head in {folder} has the classes in the order {_listed(origin.classes)}, and {name} cannot be "
                "reordered; set classes of the group in that order",
                key=key,
            )
        parameter.copy_(saved[name][order] if name in by_class else saved[name])


def _listed(classes: list[str]) -> str:
    shown = ", ".join(repr(name)[:40] for name in classes[:20])
    return f"[{shown}{f', and {len(classes) - 20} more' if classes[20:] else ''}]"
