"""The mechanisms of a run: noise multipliers found, put where they act, and what they are worth so far."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from atlas_cli import discovery
from atlas_cli.config.checks import cohort_size
from atlas_cli.config.privacy import NoiseConfig
from atlas_cli.federation.client import SplitClient
from atlas_cli.privacy.accounting import CHANNELS, calibrated, require_accounting
from atlas_cli.privacy.mechanisms.examples import ExampleNoise
from atlas_cli.privacy.mechanisms.updates import UpdateNoise
from atlas_cli.privacy.spent import Spent

if TYPE_CHECKING:
    from atlas_cli.federation.parties import Federation

INFINITE = "infinite"
_ACCOUNTED = {"updates": "updates", "examples": "updates", "activations": "activations", "fingerprints": "fingerprints"}


class Protection:
    """Puts the mechanisms of ``federation.config.privacy`` into its parties; without any it only keeps the account.

    Raises:
        ConfigError: the accountant is not installed, or an epsilon cannot be had.
    """

    def __init__(self, federation: Federation) -> None:
        self.federation, self.config = federation, federation.config.privacy
        self.spent = Spent(federation, {})
        for name, noise in self.config.noises().items():
            require_accounting(f"privacy.{name}")
            self.spent.multipliers[name] = self._multiplier(name, noise)
        self._install()

    def _multiplier(self, name: str, noise: NoiseConfig) -> float:
        if noise.epsilon is None:
            assert noise.noise_multiplier is not None
            return noise.noise_multiplier
        rounds, groups = self.federation.config.training.rounds, self.federation.group_names

        def epsilon_of(multiplier: float) -> float:
            return max(self.spent.epsilon(_ACCOUNTED[name], group, rounds, multiplier) for group in groups)

        return calibrated(noise.epsilon, epsilon_of, f"privacy.{name}.epsilon")

    def _install(self) -> None:
        federation, config, multipliers = self.federation, self.federation.config, self.spent.multipliers
        if self.config.updates is not None:
            assert self.config.updates.clip is not None
            share = config.training.cohort
            sizes = {g: cohort_size(share, len(federation.members(g))) for g in federation.group_names}
            updates = self.config.updates
            federation.aggregator.noise = UpdateNoise(
                self.config.updates.clip, multipliers["updates"], updates.where, config.seed, sizes
            )

        for name, client in federation.clients.items() if self.config.examples is not None else ():
            assert isinstance(client, SplitClient) and self.config.examples is not None
            assert self.config.examples.clip is not None
            client.example_noise = ExampleNoise(
                self.config.examples.clip, multipliers["examples"], federation.batch_size(name), config.seed, name
            )

    def begin_round(self, number: int, clients: Collection[str]) -> None:
        """Clients of a round hold what they were delivered, and have not trained yet."""
        aggregator = self.federation.aggregator
        if aggregator.noise is not None:
            aggregator.noise.begin(number, {client: aggregator.members[client].held() for client in clients})

    def figures(self, number: int) -> dict[str, dict[str, float | str]]:
        """Epsilon by task group and channel after round ``number``; infinite ones in words, as in JSON."""
        return {
            group: {channel: _figure(epsilon) for channel, epsilon in channels.items()}
            for group, channels in self.spent.after(number).items()
        }

    def record(self) -> dict[str, Any]:
        """For the manifest: what is done on which channel, and with how much noise."""
        mechanisms = {}
        for name in discovery.names("privacy.mechanisms"):
            section = getattr(self.config, name.replace("-", "_"))
            if section is not None:
                module = discovery.load("privacy.mechanisms", name)
                found = section.model_dump(mode="json", exclude_none=True)
                if name in self.spent.multipliers:
                    found["noise_multiplier"] = self.spent.multipliers[name]
                protects = module.PROTECTS
                found["protects"] = protects if isinstance(protects, str) else protects[section.where]
                mechanisms[name] = {"channel": module.CHANNEL, "unit": module.UNIT, **found}
        return {"delta": self.config.delta, "mechanisms": mechanisms}

    def warnings(self) -> list[str]:
        """What makes an epsilon mean less than it seems to."""
        federation, found = self.federation, []
        units = {}
        if self.config.updates is not None or self.config.fingerprints is not None:
            units["clients"] = min(len(federation.members(g)) for g in federation.group_names)
        if self.config.examples is not None or self.config.activations is not None:
            units["training examples of a client"] = min(len(federation.train_features(c)) for c in federation.clients)
        for what, n in units.items():
            if self.config.delta > 1 / n:
                found.append(
                    f"privacy.delta is {self.config.delta:g} and there are {n} {what}: above 1 / {n} to publish one of "
                    "them whole would be allowed"
                )
        if self.config.updates is not None and self.config.updates.where == "server" and self._server_trains():
            found.append(
                "privacy.updates bounds what updates add to what the other channels tell; the server trains on "
                "activations, which reach other clients through its gradients: with training.labels: client and "
                "server.rank: 0 they do not"
            )
        return found

    def _server_trains(self) -> bool:
        server = self.federation.server
        return server is not None and any(trained.parameters() for trained in server.groups.values())


def _figure(epsilon: float) -> float | str:
    return INFINITE if math.isinf(epsilon) else epsilon


def worst(figures: Collection[dict[str, float | str]]) -> dict[str, float | str]:
    """By channel, the largest of several groups."""
    return {c: max((f[c] for f in figures), key=lambda x: math.inf if x == INFINITE else float(x)) for c in CHANNELS}
