"""Task types: one file each, found by its name in the YAML (``task: sequence-classification``).

A task says how a row becomes tokens and labels, what its head computes, and what loss and metrics mean. The contract is
``contract.BaseTask``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from atlas_cli.errors import ConfigError
from atlas_cli.plugins import load_class
from atlas_cli.suggest import did_you_mean

if TYPE_CHECKING:
    from atlas_cli.tasks.contract import BaseTask


def load(name: str, *, key: str | None = None) -> type[BaseTask]:
    """The task type of a name, whose file keeps the contract.

    Raises:
        ConfigError: no such file, or what is wrong with it.
    """
    from atlas_cli.tasks.contract import BaseTask, check_declared

    return load_class("tasks", name, "Task", BaseTask, key=key, more=check_declared)


def build(
    task_name: str,
    classes: Sequence[str] = (),
    pooling: str = "mean",
    *,
    keep_end: bool = False,
    metric: str | None = None,
) -> BaseTask:
    """The task type of a name, ready to encode.

    Args:
        task_name: as in the YAML, e.g. ``token-classification``.
        classes: class names in the order of their ids; needed where the task has classes.
        pooling: "mean", "first" or "last" ("auto" is resolved by the caller, who knows the model).
        keep_end: of a text that is too long, rather than its start.
        metric: what a run is judged by, instead of the task's primary metric.

    Raises:
        ConfigError: an unknown task, pooling or metric, or classes that are missing or named twice.
    """
    task_type = load(task_name)
    if pooling not in ("mean", "first", "last"):
        raise ConfigError(f"pooling {pooling!r} is not known; expected one of: mean, first, last")
    if task_type.has_classes and not classes:
        raise ConfigError(f"{task_name} needs classes; give the group's classes, or training data with labels")
    if twice := sorted(name for name, count in Counter(classes).items() if count > 1):
        raise ConfigError(f"classes are named twice: {', '.join(twice)}")
    task = task_type(classes, pooling)
    task.keep_end = keep_end
    if metric is not None:
        require_metric(task_type, task_name, metric)
        task.primary_metric = metric  # type: ignore[misc]  # of this task group alone
    return task


def require_metric(task: type[BaseTask], name: str, metric: str, key: str | None = None) -> None:
    """Check that a task has a metric.

    Raises:
        ConfigError: it has none of this name; suggests the nearest.
    """
    if metric not in task.better:
        raise ConfigError(f"{name} has no metric {metric!r}{did_you_mean(metric, task.better)}", key=key)
