"""The epsilon of each channel and task group by the end of a round: a function of config, data sizes and round.

    updates       adapters and heads that clients send
    activations   sent up to the server, also those for fingerprints
    labels        sent with activations, or revealed by gradients of the head (``labels: client``)
    fingerprints  by which clients are clustered

A figure holds for the client or example that was used most (an example is a row with all sequences made of it, such as
the windows of a question), and assumes that no client was ever dropped. It bounds what one
channel adds to what the others tell, given the adapters that activations were made with; where another is infinite,
whoever sees both is not bounded by it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from atlas_cli.planning.plan import Plan
from atlas_cli.privacy.account.accounting import CHANNELS, gaussian_epsilon, sampled_epsilon
from atlas_cli.privacy.account.participation import Participation
from atlas_cli.tasks.contract import Feature, example_numbers


class EpsilonAccount:
    """The epsilon account of a plan.

    Args:
        features: the training examples of a client; ``batch_size``: its number of examples in a local step.
        sends_updates: whether clients send adapters.
        multipliers: the noise multiplier of each mechanism.
    """

    def __init__(
        self,
        plan: Plan,
        features: Callable[[str], Sequence[Feature]],
        batch_size: Callable[[str], int],
        sends_updates: bool,
        multipliers: Mapping[str, float],
    ) -> None:
        self.plan, self.config, self.features, self.sends_updates = plan, plan.config, features, sends_updates
        self.multipliers = dict(multipliers)
        self.participation = Participation(plan, features, batch_size)
        self._lengths: dict[str, int] = {}

    def after(self, number: int) -> dict[str, dict[str, float]]:
        """Epsilon by task group and channel: ``math.inf`` if no mechanism bounds it, 0 if nothing was sent."""
        return {g: {channel: self.epsilon(channel, g, number) for channel in CHANNELS} for g in self.config.task_groups}

    def epsilon(self, channel: str, group: str, number: int, multiplier: float | None = None) -> float:
        """Epsilon of one channel after round ``number``.

        Args:
            multiplier: the noise multiplier to try; default: the one in use.
        """
        if self.config.mode == "local-only" or (self.config.mode == "centralized" and channel == "fingerprints"):
            return 0.0
        if self.config.mode == "centralized":  # the learner has the texts themselves
            return math.inf if number else 0.0
        return {
            "updates": self._updates,
            "activations": self._activations,
            "labels": self._labels,
            "fingerprints": self._fingerprints,
        }[channel](group, number, multiplier)

    def _updates(self, group: str, number: int, multiplier: float | None) -> float:
        if not self.sends_updates or number == 0:
            return 0.0
        privacy = self.config.privacy
        if privacy.updates is None and privacy.examples is None:
            return math.inf
        most = self.participation.most(group, number)
        if privacy.updates is not None:
            z = self.multipliers["updates"] if multiplier is None else multiplier
            return gaussian_epsilon(z, most.rounds, privacy.delta)
        z = self.multipliers["examples"] if multiplier is None else multiplier
        drawn = {(rate, rounds * self.config.training.local_steps) for rate, rounds in most.sampled.items()}
        # the larger the rate or the number of steps, the larger is epsilon
        worst = [d for d in drawn if not any(o != d and o[0] >= d[0] and o[1] >= d[1] for o in drawn)]
        return max(sampled_epsilon(z, rate, steps, privacy.delta) for rate, steps in worst)

    def _activations(self, group: str, number: int, multiplier: float | None) -> float:
        if self.config.mode != "split-federated" or not self._begun(number):
            return 0.0
        if self.config.privacy.activations is None:
            return math.inf
        z = self.multipliers["activations"] if multiplier is None else multiplier
        # other words turn a vector of norm clip into any other: each token moves by up to 2 clip
        times = 4 * self._uses(group, number) * self._longest(group)
        return gaussian_epsilon(z, times, self.config.privacy.delta)

    def _labels(self, group: str, number: int, multiplier: float | None) -> float:
        if self.config.mode != "split-federated" or not self._begun(number):
            return 0.0
        labels = self.config.privacy.labels
        return math.inf if labels is None else labels.epsilon

    def _fingerprints(self, group: str, number: int, multiplier: float | None) -> float:
        taken = self._fingerprintings(number)
        if taken == 0:
            return 0.0
        if self.config.privacy.fingerprints is None:
            return math.inf
        z = self.multipliers["fingerprints"] if multiplier is None else multiplier
        return gaussian_epsilon(z, taken, self.config.privacy.delta)

    def _fingerprintings(self, number: int) -> int:
        rule = self.config.clustering
        if rule is None or rule.by != "fingerprints":
            return 0
        return 1 + (max(0, number - 1) // rule.every if rule.every is not None else 0)

    def _begun(self, number: int) -> bool:
        """Whether any batch was sent by the end of a round; a cohort has a client from every group."""
        return number > 0 or self._fingerprintings(number) > 0

    def _uses(self, group: str, number: int) -> int:
        """The most times that activations of one example were sent: once for each epoch and each fingerprint."""
        most = self.participation.most(group, number)
        sampled = self.config.privacy.examples is not None
        times = most.rounds * self.config.training.local_steps if sampled else most.epochs
        return times + self._fingerprintings(number)

    def _longest(self, group: str) -> int:
        """Tokens of the longest training example, summed over all sequences that are made of it."""
        if group not in self._lengths:
            longest = 0
            for client in self.plan.names(group):
                features = self.features(client)
                tokens: Counter[int] = Counter()
                for number, feature in zip(example_numbers(features), features, strict=True):
                    tokens[number] += len(feature["input_ids"])
                longest = max(longest, *tokens.values())
            self._lengths[group] = longest
        return self._lengths[group]
