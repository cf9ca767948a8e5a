"""Checks that each task can run on the model, and has the classes that the rest of the config needs."""

from __future__ import annotations

from atlas_cli import discovery
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import ConfigError
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.tasks import load, sequence_classification
from atlas_cli.tasks.contract import BaseTask


def check_tasks(config: ExperimentConfig, model_type: str, family: BaseFamily) -> None:
    """Check that every task group's task can run.

    Raises:
        ConfigError: a task needs a decoder, or its examples have no class although labels are randomised.
    """
    for name, group in config.task_groups.items():
        task = load(group.task, key=f"task_groups.{name}.task")
        if task.causal_only and not family.causal:
            raise ConfigError(
                f"{group.task} needs a decoder, and {model_type} is an encoder; use another model, or one of "
                + ", ".join(n for n in discovery.own_names("tasks") if not load(n).causal_only),
                key=f"task_groups.{name}.task",
            )
        if config.privacy.labels is not None:
            _check_randomised(group.task, task, config.privacy.labels.correction)


def _check_randomised(name: str, task: type[BaseTask], correction: str) -> None:
    """Check that examples have one class each, so labels can be randomised, and a loss that can be corrected."""
    if not task.one_class:
        raise ConfigError(
            f"randomises one class an example, and an example of {name} has none or several; remove it",
            key="privacy.labels",
        )
    known = sequence_classification.Task
    if correction == "forward" and (task.loss, task.build_head) != (known.loss, known.build_head):
        raise ConfigError(
            f"corrects the loss of sequence-classification, and {name} has another loss or head; use none",
            key="privacy.labels.correction",
        )
