"""Upper limits on how often clients and their examples were used by the end of each round.

A round looks only at its cohort and updates the largest figures so far, so the cost of an account grows with the
cohorts and not with all clients.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from atlas_cli.planning.cohort import sample_cohort
from atlas_cli.planning.plan import Plan
from atlas_cli.tasks.contract import Feature, count_examples


class LargestUse(NamedTuple):
    """How often the clients and examples of a task group were used at most by the end of a round.

    Attributes:
        rounds: the most rounds in which one client took part.
        epochs: the most epochs in which one example was sent.
        sampled: for each sampling rate of DP-SGD, the most rounds of one client with that rate.
    """

    rounds: int
    epochs: int
    sampled: dict[float, int]


class Participation:
    """Participation of a plan's clients in the drawn cohorts, assuming that no client is ever dropped.

    Args:
        features: the training examples of a client.
        batch_size: the number of examples in a client's local step.
    """

    def __init__(
        self, plan: Plan, features: Callable[[str], Sequence[Feature]], batch_size: Callable[[str], int]
    ) -> None:
        self.plan, self.features, self.batch_size = plan, features, batch_size
        self._after: list[dict[str, LargestUse]] = [{group: LargestUse(0, 0, {}) for group in plan.group_names}]
        self._rounds: dict[str, int] = defaultdict(int)
        self._epochs: dict[str, int] = defaultdict(int)
        self._latest: dict[str, int] = {}
        self._rates: dict[str, float] = {}

    def most(self, group: str, number: int) -> LargestUse:
        """The largest use in a task group after round ``number``."""
        while len(self._after) <= number:
            self._after.append(self._next(len(self._after)))
        return self._after[number][group]

    def rate(self, client: str) -> float:
        """The probability that an example of a client, with all its windows, is in a batch of DP-SGD."""
        if client not in self._rates:
            examples = count_examples(self.features(client))
            self._rates[client] = min(1.0, self.batch_size(client) / examples)
        return self._rates[client]

    def _next(self, number: int) -> dict[str, LargestUse]:
        found = dict(self._after[-1])
        for client in sample_cohort(self.plan, number):
            group = self.plan.by_name[client].task_group
            before, rate = found[group], self.rate(client)
            rounds, epochs = self._take_part(client, number)
            sampled = {**before.sampled, rate: max(rounds, before.sampled.get(rate, 0))}
            found[group] = LargestUse(max(rounds, before.rounds), max(epochs, before.epochs), sampled)
        return found

    def _take_part(self, client: str, number: int) -> tuple[int, int]:
        """Rounds and epochs of a client after one more round; each epoch sends an example once."""
        steps = self.plan.config.training.local_steps
        length = math.ceil(len(self.features(client)) / self.batch_size(client))
        first, last = (number - 1) * steps // length, (number * steps - 1) // length
        self._epochs[client] += last + 1 - max(first, self._latest.get(client, -1) + 1)
        self._latest[client] = last
        self._rounds[client] += 1
        return self._rounds[client], self._epochs[client]
