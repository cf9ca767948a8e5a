"""Upper limits on how often clients and their examples were used by the end of each round.

A round looks only at its cohort and updates the largest figures so far, so the cost of an account grows with the
cohorts and not with all clients.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import NamedTuple

from atlas_cli.planning.cohort import sample_cohort
from atlas_cli.planning.plan import Plan
from atlas_cli.tasks.contract import Feature, count_examples


class ClientUse(NamedTuple):
    """How often a client took part by the end of a round.

    Attributes:
        rounds: in which it took part.
        epochs: in which an example of it was sent.
    """

    rounds: int = 0
    epochs: int = 0


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

    Attributes:
        frozen: by client that is not drawn any more, the first round in which it was not.
        admits: whether a client whose turn it is may have this use by the end of a round; else it is frozen.
        settled: the last round that is not to be decided anew, since it was trained with ``frozen`` as it is.
    """

    def __init__(
        self, plan: Plan, features: Callable[[str], Sequence[Feature]], batch_size: Callable[[str], int]
    ) -> None:
        self.plan, self.features, self.batch_size = plan, features, batch_size
        self._after: list[dict[str, LargestUse]] = [{group: LargestUse(0, 0, {}) for group in plan.group_names}]
        self.frozen: dict[str, int] = {}
        self.admits: Callable[[str, ClientUse, int], bool] | None = None
        self.settled = 0
        self._uses: dict[str, list[tuple[int, ClientUse]]] = defaultdict(list)  # by client: round, and by its end
        self._latest: dict[str, int] = {}
        self._rates: dict[str, float] = {}

    def most(self, group: str, number: int) -> LargestUse:
        """The largest use in a task group after round ``number``."""
        self._go_on(number)
        return self._after[number][group]

    def use(self, client: str, number: int) -> ClientUse:
        """The use of a client by the end of round ``number``."""
        self._go_on(number)
        uses = self._uses.get(client, [])
        place = bisect_right(uses, number, key=itemgetter(0))
        return uses[place - 1][1] if place else ClientUse()

    def participants(self, group: str, number: int) -> list[str]:
        """The clients of a group that took part in a round by the end of round ``number``."""
        self._go_on(number)
        by_name = self.plan.by_name
        return [c for c, uses in self._uses.items() if uses[0][0] <= number and by_name[c].task_group == group]

    def cohort(self, number: int) -> list[str]:
        """The clients of a round, without those that are frozen."""
        self._go_on(number)
        return sample_cohort(self.plan, number, frozen=self.frozen_in(number))

    def frozen_in(self, number: int) -> set[str]:
        """The clients that are frozen in a round."""
        self._go_on(number)
        return self._out(number)

    def _out(self, number: int) -> set[str]:
        return {client for client, first in self.frozen.items() if first <= number}

    def _go_on(self, number: int) -> None:
        while len(self._after) <= number:
            self._after.append(self._next(len(self._after)))

    def rate(self, client: str) -> float:
        """The probability that an example of a client, with all its windows, is in a batch of DP-SGD."""
        if client not in self._rates:
            examples = count_examples(self.features(client))
            self._rates[client] = min(1.0, self.batch_size(client) / examples)
        return self._rates[client]

    def _next(self, number: int) -> dict[str, LargestUse]:
        found = dict(self._after[-1])
        for client in self._drawn(number):
            group = self.plan.by_name[client].task_group
            before, rate = found[group], self.rate(client)
            use, self._latest[client] = self._with(client, number)
            self._uses[client].append((number, use))
            rounds, epochs = use
            sampled = {**before.sampled, rate: max(rounds, before.sampled.get(rate, 0))}
            found[group] = LargestUse(max(rounds, before.rounds), max(epochs, before.epochs), sampled)
        return found

    def _drawn(self, number: int) -> list[str]:
        """The cohort of a round: who may not take part in it is frozen, and others are drawn."""
        while True:
            cohort = sample_cohort(self.plan, number, frozen=self._out(number))
            if self.admits is None or number <= self.settled:
                return cohort
            spent = [client for client in cohort if not self.admits(client, self._with(client, number)[0], number)]
            if not spent:
                return cohort
            self.frozen |= dict.fromkeys(spent, number)

    def _with(self, client: str, number: int) -> tuple[ClientUse, int]:
        """The use of a client after one more round, and its latest epoch; each epoch sends an example once."""
        steps = self.plan.config.training.local_steps
        length = math.ceil(len(self.features(client)) / self.batch_size(client))
        first, last = (number - 1) * steps // length, (number * steps - 1) // length
        before = self._uses[client][-1][1] if client in self._uses else ClientUse()
        epochs = before.epochs + last + 1 - max(first, self._latest.get(client, -1) + 1)
        return ClientUse(before.rounds + 1, epochs), last
