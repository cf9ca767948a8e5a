"""Which clients take part in a round: a pure function, so that resuming needs no sampler state."""

from __future__ import annotations

from atlas_cli.config.checks import cohort_size
from atlas_cli.planning.plan import Plan
from atlas_cli.seeding import numpy_generator


def sample_cohort(plan: Plan, round_number: int) -> list[str]:
    """Draw the share ``training.cohort`` of each group's clients, at least one, in the order of the config."""
    share, seed = plan.config.training.cohort, plan.config.seed
    chosen: set[str] = set()
    for group in plan.group_names:
        members = plan.names(group)
        size = cohort_size(share, len(members))
        draw = numpy_generator(seed, "cohort", group, round_number)
        chosen.update(members[i] for i in draw.permutation(len(members))[:size])
    return plan.in_order(chosen)
