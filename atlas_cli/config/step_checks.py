"""Checks of ``clients.X.local_steps`` and ``aggregation.normalise`` against the rest of a config."""

from __future__ import annotations

from collections.abc import Iterator

from atlas_cli.config.problems import Problem
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.config.schema.privacy import PrivacyConfig


def step_problems(config: ExperimentConfig) -> Iterator[Problem]:
    """Steps that a round does not have, and what counts on all clients to take the same number."""
    most, privacy = config.training.local_steps, config.privacy
    for name, client in config.clients.items():
        if client.local_steps is None:
            continue
        path = ("clients", name, "local_steps")
        if client.local_steps > most:
            yield Problem(path, f"must be at most training.local_steps, {most}, got {client.local_steps}")
        elif config.mode == "centralized":
            problem = "mode: centralized has one learner a task group, which takes training.local_steps; remove it"
            yield Problem(path, problem)
        elif config.training.asynchrony is not None:
            yield Problem(path, "with training.asynchrony clients take part at their own pace; remove one of the two")
        elif privacy != PrivacyConfig(delta=privacy.delta):
            yield Problem(path, "privacy is accounted for with training.local_steps of all clients; remove it")
