"""Mode ``centralized``: one learner per task group."""

from __future__ import annotations

from dataclasses import replace

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.data.prepare import PreparedGroup
from atlas_cli.planning.plan import ClientPlan, Plan


def pool_clients(
    config: ExperimentConfig, plan: Plan, data: dict[str, PreparedGroup]
) -> tuple[Plan, dict[str, PreparedGroup]]:
    """Replace the clients of each group by one learner with their data and the largest of their ranks."""
    learners = tuple(
        ClientPlan(
            f"{name}-pooled",
            name,
            max(client.cut for client in plan.members(name)),
            plan.group_ranks(name),
            f"task_groups.{name}",
            dtype=config.model.dtype,
        )
        for name in config.task_groups
    )
    together = {}
    for learner in learners:
        group = data[learner.task_group]
        together[learner.task_group] = replace(
            group,
            train={learner.name: [f for features in group.train.values() for f in features]},
            local_test={learner.name: [f for features in group.local_test.values() for f in features]},
        )
    return replace(plan, clients=learners), together
