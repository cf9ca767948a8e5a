"""Which clients take part in a round, and the faults that they meet: pure functions, so that resuming needs no state.

Clients that do not answer are drawn from hash(seed, client, round), so that a client's draw depends on no other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import TypeVar

from atlas_cli.config.cohorts import cohort_size
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.config.schema.faults import CrashConfig
from atlas_cli.planning.plan import ClientPlan, Plan
from atlas_cli.seeding import numpy_generator

T = TypeVar("T")


def sample_cohort(plan: Plan, round_number: int, busy: Collection[str] = (), frozen: Collection[str] = ()) -> list[str]:
    """Draw the share ``training.cohort`` of each group's clients, at least one, in the order of the config.

    Args:
        busy: clients that take part already, and count (``training.asynchrony``); they are not drawn.
        frozen: clients that are not drawn any more and do not count (``privacy.budget``): others come in their place,
            as long as there are any.
    """
    share, seed = plan.config.training.cohort, plan.config.seed
    chosen: set[str] = set()
    for group in plan.group_names:
        members = plan.names(group)
        size = cohort_size(share, len(members))
        draw = numpy_generator(seed, "cohort", group, round_number)
        taken = len(set(busy).intersection(members)) if busy else 0
        in_turn = (members[i] for i in draw.permutation(len(members)))  # of a million only the first are looked at
        idle = (member for member in in_turn if member not in busy and member not in frozen)
        chosen.update(islice(idle, max(0, size - taken)))
    return plan.in_order(chosen)


def answers(config: ExperimentConfig, client: str, round_number: int) -> bool:
    """Whether a client of the cohort answers in a round (from 1): ``faults.drop``."""
    chance = config.faults.drop
    return chance == 0 or float(numpy_generator(config.seed, "faults-drop", client, round_number).random()) >= chance


def slowdowns(config: ExperimentConfig, clients: Iterable[ClientPlan]) -> dict[str, float]:
    """The factors ``faults.slow`` of the slow ones among some clients."""
    return _by_client(clients, config.faults.slow)


def crashes(config: ExperimentConfig, clients: Iterable[ClientPlan], round_number: int) -> dict[str, int]:
    """The step (from 0) before which each of some clients crashes in this round: ``faults.crash_at``."""
    found = crashing(config, clients)
    return {client: crash.step for client, crash in found.items() if crash.round == round_number}


def crashing(config: ExperimentConfig, clients: Iterable[ClientPlan]) -> dict[str, CrashConfig]:
    """Where each of some clients is to crash: ``faults.crash_at``."""
    return _by_client(clients, config.faults.crash_at)


def _by_client(clients: Iterable[ClientPlan], given: Mapping[str, T]) -> dict[str, T]:
    """Each client's own entry, else that of its template."""
    found = {}
    for client in clients if given else ():
        for name in (client.name, client.key.removeprefix("clients.")):
            if name in given:
                found[client.name] = given[name]
                break
    return found
