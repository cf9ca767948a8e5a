"""The epsilon of each channel and task group by the end of a round: a function of config, data sizes and round.

    updates       adapters and heads that clients send
    activations   sent up to the server, also those for fingerprints
    labels        sent with activations, or revealed by gradients of the head (``labels: client``)
    fingerprints  by which clients are clustered

A figure of a group is that of its client or example that was used most (an example is a row with all sequences made of
it, such as the windows of a question), and one of a client holds for it and each of its examples; with
``privacy.clients_per_user`` a user whose clients were all used as often takes the client's place. Both assume that no
client was ever dropped. It bounds what one channel adds to what the others tell, given the adapters that activations
were made with; where another is infinite, whoever sees both is not bounded by it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from atlas_cli.config.schema.privacy import CHANNEL_OF
from atlas_cli.planning.plan import Plan
from atlas_cli.privacy.account.accounting import (
    CHANNELS,
    calibrate,
    gaussian_epsilon,
    pure_epsilon,
    require_accounting,
    sampled_epsilon,
)
from atlas_cli.privacy.account.events import Event, composed_epsilon
from atlas_cli.privacy.account.participation import ClientUse, Participation
from atlas_cli.tasks.contract import Feature, example_numbers

# other words turn a vector of norm clip into any other: each token moves by up to 2 clip
_PER_TOKEN = 4


class EpsilonAccount:
    """The epsilon account of a plan.

    Args:
        features: the training examples of a client; ``batch_size``: its number of examples in a local step.
        sends_updates: whether clients send adapters.
        token_epsilon: of a token that is replaced before the client half, where a mechanism does that.

    Attributes:
        multipliers: the noise multiplier of each mechanism (``find_multipliers``).
    """

    def __init__(
        self,
        plan: Plan,
        features: Callable[[str], Sequence[Feature]],
        batch_size: Callable[[str], int],
        sends_updates: bool,
        token_epsilon: float | None = None,
    ) -> None:
        self.plan, self.config, self.features, self.sends_updates = plan, plan.config, features, sends_updates
        self.token_epsilon = token_epsilon
        self.multipliers: dict[str, float] = {}
        self.participation = Participation(plan, features, batch_size)
        self._lengths: dict[str, int] = {}

    def find_multipliers(self) -> None:
        """Set the noise multiplier of each mechanism: that of the config, or the one that reaches its epsilon.

        Raises:
            ConfigError: the accountant is not installed, or an epsilon cannot be reached.
        """
        for name, noise in self.config.privacy.noises().items():
            key = f"privacy.{name}"
            require_accounting(key)
            if noise.noise_multiplier is not None:
                self.multipliers[name] = noise.noise_multiplier
                continue
            assert noise.epsilon is not None
            self.multipliers[name] = calibrate(noise.epsilon, self._reached(CHANNEL_OF[name]), f"{key}.epsilon")

    def _reached(self, channel: str) -> Callable[[float], float]:
        rounds, groups = self.config.training.rounds, self.plan.group_names
        return lambda multiplier: max(self.epsilon(channel, group, rounds, multiplier) for group in groups)

    def anew(self) -> Participation:
        """Count participation anew, and return what counts it."""
        before = self.participation
        self.participation = Participation(before.plan, before.features, before.batch_size)
        return self.participation

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
            return gaussian_epsilon(z, most.rounds * privacy.uses_by_user("updates"), privacy.delta)
        z = self.multipliers["examples"] if multiplier is None else multiplier
        drawn = {(rate, rounds * self.config.training.local_steps) for rate, rounds in most.sampled.items()}
        # the larger the rate or the number of steps, the larger is epsilon
        worst = [d for d in drawn if not any(o != d and o[0] >= d[0] and o[1] >= d[1] for o in drawn)]
        return max((sampled_epsilon(z, rate, steps, privacy.delta) for rate, steps in worst), default=0.0)

    def _activations(self, group: str, number: int, multiplier: float | None) -> float:
        if self.config.mode != "split-federated" or not self._begun(number):
            return 0.0
        if self.token_epsilon is not None:
            asked = self._fingerprintings(number) > 0
            clients = self.plan.names(group) if asked else self.participation.participants(group, number)
            longest = max(map(self._longest, clients), default=0)
            return pure_epsilon(self.token_epsilon, longest, self.config.privacy.delta)
        if self.config.privacy.activations is None:
            return math.inf
        z = self.multipliers["activations"] if multiplier is None else multiplier
        taken = self._fingerprintings(number)
        times = [taken * max(map(self._longest, self.plan.names(group)))] if taken else [0]
        for client in self.participation.participants(group, number):
            times.append((self._sent(self.participation.use(client, number)) + taken) * self._longest(client))
        return gaussian_epsilon(z, _PER_TOKEN * max(times), self.config.privacy.delta)

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
        times = taken * self.config.privacy.uses_by_user("fingerprints")
        return gaussian_epsilon(z, times, self.config.privacy.delta)

    def events(self, channel: str, client: str, use: ClientUse, number: int) -> Event | None:
        """What one client, or one of its examples, told on a channel of a split or federated run by the end of a round.

        Args:
            use: of the client by then.

        Returns:
            None if it told nothing.
        """
        return {
            "updates": self._updates_of,
            "activations": self._activations_of,
            "labels": self._labels_of,
            "fingerprints": self._fingerprints_of,
        }[channel](client, use, self._fingerprintings(number))

    def of_client(self, client: str, number: int) -> dict[str, float]:
        """Epsilon of a client, or of one of its examples, after round ``number``, by channel that a mechanism bounds.

        With ``privacy.examples`` that of updates is computed for the sampling rate rounded up to two digits, so that
        many clients share a figure; it is never above that of the group.
        """
        use, found = self.participation.use(client, number), dict[str, float]()
        for channel in self.config.privacy.bounded():
            event = self.events(channel, client, use, number)
            found[channel] = 0.0
            if event is not None:
                sampled = event.kind == "sampled-gaussian"
                event = event._replace(rate=_rounded_up(event.rate)) if sampled else event
                found[channel] = composed_epsilon((event,), self.config.privacy.delta)
                if sampled:
                    of_group = self.epsilon(channel, self.plan.by_name[client].task_group, number)
                    found[channel] = min(found[channel], of_group)
        return found

    def _updates_of(self, client: str, use: ClientUse, taken: int) -> Event | None:
        privacy = self.config.privacy
        if not self.sends_updates or not use.rounds:
            return None
        if privacy.updates is not None:
            return Event("gaussian", use.rounds * privacy.uses_by_user("updates"), self.multipliers["updates"])
        if privacy.examples is None:
            return Event("none", 1)
        steps, rate = use.rounds * self.config.training.local_steps, self.participation.rate(client)
        return Event("sampled-gaussian", steps, self.multipliers["examples"], rate)

    def _activations_of(self, client: str, use: ClientUse, taken: int) -> Event | None:
        sent = (self._sent(use) + taken) if self.config.mode == "split-federated" else 0
        if not sent:
            return None
        if self.token_epsilon is not None:
            return Event("pure", self._longest(client), self.token_epsilon)
        if self.config.privacy.activations is None:
            return Event("none", 1)
        return Event("gaussian", _PER_TOKEN * sent * self._longest(client), self.multipliers["activations"])

    def _labels_of(self, client: str, use: ClientUse, taken: int) -> Event | None:
        if self.config.mode != "split-federated" or not (use.rounds or taken):
            return None
        labels = self.config.privacy.labels
        return Event("none", 1) if labels is None else Event("randomised-response", 1, labels.epsilon)

    def _fingerprints_of(self, client: str, use: ClientUse, taken: int) -> Event | None:
        if not taken:
            return None
        privacy = self.config.privacy
        if privacy.fingerprints is None:
            return Event("none", 1)
        return Event("gaussian", taken * privacy.uses_by_user("fingerprints"), self.multipliers["fingerprints"])

    def everybody_is_asked(self, number: int) -> bool:
        """Whether all clients are fingerprinted in a round, or before the first (0)."""
        return self._fingerprintings(number) > (self._fingerprintings(number - 1) if number else 0)

    def _fingerprintings(self, number: int) -> int:
        rule = self.config.clustering
        if rule is None or rule.by != "fingerprints":
            return 0
        return 1 + (max(0, number - 1) // rule.every if rule.every is not None else 0)

    def _begun(self, number: int) -> bool:
        """Whether any batch was sent by the end of a round; a cohort has a client from every group."""
        return number > 0 or self._fingerprintings(number) > 0

    def _sent(self, use: ClientUse) -> int:
        """The most times that activations of one example were sent in rounds: once an epoch, or once a sample."""
        sampled = self.config.privacy.examples is not None
        return use.rounds * self.config.training.local_steps if sampled else use.epochs

    def _longest(self, client: str) -> int:
        """Tokens of a client's longest training example, summed over all sequences that are made of it."""
        if client not in self._lengths:
            features = self.features(client)
            tokens: Counter[int] = Counter()
            for number, feature in zip(example_numbers(features), features, strict=True):
                tokens[number] += len(feature["input_ids"])
            self._lengths[client] = max(tokens.values(), default=0)
        return self._lengths[client]


def _rounded_up(rate: float) -> float:
    """A rate to two significant digits, not below what it was."""
    step = 10.0 ** (math.floor(math.log10(rate)) - 1)
    return min(1.0, math.ceil(rate / step - 1e-9) * step * (1 + 1e-9))
