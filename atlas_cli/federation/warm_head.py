"""The head of an adapter that a task group starts from: loaded by class name, or refused."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from atlas_cli.errors import ConfigError
from atlas_cli.models.adapters.origin import ORIGIN, Origin
from atlas_cli.models.adapters.peft_format import HEAD
from atlas_cli.tasks._heads import Classifier, SequencePooling
from atlas_cli.tasks.contract import BaseTask

_ANEW = f"remove {HEAD} and SHA256SUMS from a copy of it to start with a new head"


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
