"""Which clients take part in a round: a pure function, so that resuming needs no sampler state."""

from __future__ import annotations

from atlas_cli.config.checks import cohort_size
from atlas_cli.federation.parties import Federation
from atlas_cli.seeding import numpy_generator


def sample_cohort(federation: Federation, round_number: int) -> list[str]:
    """``training.cohort`` of each group's clients, at least one, in the order of the config."""
    share, seed = federation.config.training.cohort, federation.config.seed
    chosen: set[str] = set()
    for group in federation.group_names:
        members = federation.members(group)
        size = cohort_size(share, len(members))
        draw = numpy_generator(seed, "cohort", group, round_number)
        chosen.update(members[i] for i in draw.permutation(len(members))[:size])
    return federation.in_order(chosen)
