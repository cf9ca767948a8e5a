"""The privacy mechanisms of a run: their noise multipliers, their installation in the parties, and their account."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from atlas_cli.config.cohorts import cohort_size
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.config.schema.section import Section
from atlas_cli.errors import ConfigError
from atlas_cli.federation.client_state.offloaded import OffloadedClients
from atlas_cli.federation.merging.aggregator import Aggregator
from atlas_cli.federation.parties.evaluation import Evaluator
from atlas_cli.federation.parties.party import Party
from atlas_cli.federation.parties.split_server import SplitServer
from atlas_cli.planning.plan import Plan
from atlas_cli.printable import on_one_line
from atlas_cli.privacy.account.budget import budget_of
from atlas_cli.privacy.account.epsilon_account import EpsilonAccount
from atlas_cli.privacy.account.norms import Norms, mean_norms
from atlas_cli.privacy.at_the_cut import acting_mechanisms, activation_noise, bottleneck_noise, sent_to_predict
from atlas_cli.privacy.client_side import ClientProtection
from atlas_cli.privacy.mechanisms import active_mechanisms
from atlas_cli.privacy.mechanisms._replacement import TokenReplacement
from atlas_cli.privacy.mechanisms.activations import ActivationNoise
from atlas_cli.privacy.mechanisms.contract import BaseMechanism
from atlas_cli.privacy.mechanisms.examples import ExampleNoise
from atlas_cli.privacy.mechanisms.fingerprints import FingerprintNoise
from atlas_cli.privacy.mechanisms.mask_gradients import PaddingCover
from atlas_cli.privacy.mechanisms.updates import UpdateNoise
from atlas_cli.tasks.contract import Feature, count_examples, example_numbers, original_ids

INFINITE = "infinite"


class Protection:
    """Installs the mechanisms of a config's ``privacy`` in the parties; without any it only keeps the account.

    It has no state between rounds but who is frozen: draws follow from seed, client and round, and what is spent from
    the plan and the number of rounds.

    Args:
        train_features: gives a client's training examples.
        batch_size: gives the examples of its local step.
        replacement: what replaced the tokens of these examples.

    Raises:
        ConfigError: the accountant is not installed, or an epsilon cannot be reached.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        plan: Plan,
        clients: Mapping[str, Party],
        server: SplitServer,
        aggregator: Aggregator,
        evaluator: Evaluator,
        train_features: Callable[[str], Sequence[Feature]],
        batch_size: Callable[[str], int],
        replacement: TokenReplacement | None = None,
    ) -> None:
        self.training, self.config, self.plan = config.training, config.privacy, plan
        self.clients, self.server, self.aggregator, self.evaluator = clients, server, aggregator, evaluator
        self.train_features, self.batch_size = train_features, batch_size
        self.replacement = replacement
        token_epsilon = None if replacement is None else replacement.token_epsilon
        self.account = EpsilonAccount(plan, train_features, batch_size, aggregator.exchanges, token_epsilon)
        self.mechanisms = active_mechanisms(self.config)
        self.fingerprint_noise: FingerprintNoise | None = None
        self.account.find_multipliers()
        self.budget = budget_of(config, self.account)
        self.install(config.seed)

    def frozen(self, number: int) -> set[str]:
        """The clients that are not drawn in a round, since a budget of theirs is spent."""
        return self.budget.frozen(number) if self.budget is not None else set()

    def install(self, seed: int) -> None:
        """Install all mechanisms in the parties; from now on noise is drawn by ``seed``."""
        self.seed, config = seed, self.config
        if (updates := config.updates) is not None:
            if updates.where == "server":
                self._require_nothing_merged_from_the_server()
            sizes = {g: cohort_size(self.training.cohort, len(self.plan.names(g))) for g in self.plan.group_names}
            self.aggregator.noise = UpdateNoise(*self._clipping("updates"), updates.where, seed, sizes)
        if config.fingerprints is not None:
            self.fingerprint_noise = FingerprintNoise(*self._clipping("fingerprints"), seed)
        self.evaluator.sent = sent_to_predict(config, self.account.multipliers.get("activations"), seed)
        if not isinstance(self.clients, OffloadedClients):  # else each is, when its round begins
            for name, client in self.clients.items():
                self.protect(name, client)

    def _require_nothing_merged_from_the_server(self) -> None:
        """Split layers as they were found: those of ``auto`` may differ where the config's are alike."""
        for name, member in self.aggregator.members.items():
            if member.served:
                raise ConfigError(
                    f"the server trains layers for client {name} that others of its group train, "
                    "and they would be merged without noise; give all one split_layer, or use where: client",
                    key="privacy.updates.where",
                )

    def protect(self, name: str, client: Party) -> None:
        """Install the mechanisms of a client; a second call changes nothing."""
        config, seed = self.config, self.seed
        noise = None
        if config.examples is not None:
            noise = ExampleNoise(*self._clipping("examples"), self.batch_size(name), seed, name)
        client.privacy = ClientProtection(
            examples=noise,
            activations=self.activation_noise(name),
            bottleneck=bottleneck_noise(config, seed, name),
            denoises=config.denoise is not None,
            padding=PaddingCover(seed) if config.mask_gradients else None,
            mechanisms=acting_mechanisms(self.mechanisms.values(), seed, name),
        )

    def activation_noise(self, name: str) -> ActivationNoise | None:
        """The activation noise of a client; None if there is none."""
        return activation_noise(self.config, self.account.multipliers.get("activations"), self.seed, name)

    def _clipping(self, name: str) -> tuple[float, float]:
        """Norm and noise multiplier of a mechanism."""
        clip = self.config.noises()[name].clip
        assert clip is not None
        return clip, self.account.multipliers[name]

    def begin_round(self, number: int, clients: Collection[str]) -> None:
        """Begin a round, when its clients hold what they were delivered and have not trained yet."""
        aggregator = self.aggregator
        for client in clients:
            self.protect(client, self.clients[client])
        if aggregator.noise is not None:
            aggregator.noise.begin(number, {client: aggregator.members[client].exchanged() for client in clients})

    def norms_of_client(self, client: str) -> dict[str, dict[str, float | None]]:
        """Norms of a client's updates in the round, before and after each mechanism that clips and adds noise."""
        updates = self.aggregator.noise
        found = {"updates": updates.norms.get(client) if updates is not None else None}
        return _present(found | {"examples": self._example_norms(client)})

    def norms_of_group(self, clients: Collection[str]) -> dict[str, dict[str, float | None]]:
        """The means of these norms over ``clients`` of one task group."""
        aggregator = self.aggregator
        merged = {aggregator.members[client].group for client in clients}
        of_examples = [norms for client in clients if (norms := self._example_norms(client)) is not None]
        updates = aggregator.noise.mean_norms(clients, merged) if aggregator.noise is not None else None
        return _present({"updates": updates, "examples": mean_norms(of_examples) if of_examples else None})

    def _example_norms(self, client: str) -> Norms | None:
        if self.config.examples is None:
            return None
        noise = self.clients[client].privacy.examples
        return noise.of_round() if noise is not None else None

    def figures(self, number: int) -> dict[str, dict[str, float | str]]:
        """Epsilon by task group and channel after round ``number``; infinite ones in words, as in JSON."""
        return {
            group: {channel: _figure(epsilon) for channel, epsilon in channels.items()}
            for group, channels in self.account.after(number).items()
        }

    def figures_of_client(self, client: str, number: int) -> dict[str, float | str]:
        """Epsilon of a client, or of one of its examples, after round ``number``, by channel with a mechanism."""
        return {channel: _figure(epsilon) for channel, epsilon in self.account.of_client(client, number).items()}

    def spent(self, clients: Collection[str], number: int) -> dict[str, float | str]:
        """The largest epsilon of some clients after a round, with what earlier runs told, by channel with a budget."""
        found: dict[str, float] = {}
        if (budget := self.budget) is None:
            return {}
        for client in clients:
            for channel, epsilon in budget.spent(client, number).items():
                found[channel] = max(epsilon, found.get(channel, 0.0))
        return {channel: _figure(epsilon) for channel, epsilon in found.items()}

    def record(self) -> dict[str, Any]:
        """For the manifest: the mechanisms on each channel, and their noise."""
        mechanisms = {}
        for name, (mechanism, options) in self.mechanisms.items():
            found = options.model_dump(mode="json", exclude_none=True) if isinstance(options, Section) else {}
            if name in self.account.multipliers:
                found["noise_multiplier"] = self.account.multipliers[name]
            if self.replacement is not None and name == self.replacement.key:
                found |= self.replacement.facts()
            found["protects"] = on_one_line(mechanism.promise(options))
            unit = self._unit(mechanism)
            mechanisms[name.replace("_", "-")] = {"channel": mechanism.channel, "unit": unit, **found}
        return {"delta": self.config.delta, "mechanisms": mechanisms}

    def units(self) -> dict[str, str]:
        """The privacy unit of each channel with a mechanism: what neighbouring data sets differ in."""
        bounded = (each.mechanism for each in self.mechanisms.values())
        units = ((each.channel, self._unit(each)) for each in bounded)
        return {channel: unit for channel, unit in units if channel is not None and unit is not None}

    def _unit(self, mechanism: type[BaseMechanism]) -> str | None:
        return None if mechanism.unit is None else self.config.unit_of(mechanism.unit)

    def warnings(self) -> list[str]:
        """Warnings where an epsilon guarantees less than it seems to."""
        found = []
        units = {}
        if self.config.updates is not None or self.config.fingerprints is not None:
            clients = min(len(self.plan.names(g)) for g in self.plan.group_names)
            several = self.config.clients_per_user > 1
            units["users" if several else "clients"] = math.ceil(clients / self.config.clients_per_user)
        if self.config.examples is not None or self.config.activations is not None:
            units["training examples of a client"] = min(
                count_examples(self.train_features(client)) for client in self.clients
            )
        for what, n in units.items():
            if self.config.delta > 1 / n:
                found.append(
                    f"privacy.delta is {self.config.delta:g} and there are {n} {what}: at a delta above 1 / {n}, "
                    "publishing one of them whole would be allowed"
                )
        config = self.config
        if (
            any(each is not None for each in (config.examples, config.activations, config.labels))
            or config.replaces_tokens() is not None
        ):
            found += self._repeated()
        if self.config.updates is not None and self.config.updates.where == "server" and self.server_trains():
            found.append(
                "privacy.updates bounds what updates add to what the other channels tell; the server trains on "
                "activations, which reach other clients through its gradients: with training.labels: client and "
                "server.rank: 0 they do not"
            )
        if self.config.activations is not None and self.config.examples is None:
            found.append(
                "epsilon of activations takes the adapters as known; they are trained on the words without noise, and "
                "change what is sent of other texts later: privacy.examples bounds that"
            )
        return found

    def _repeated(self) -> Iterator[str]:
        """Rows that clients hold more than once, also one with another: epsilon is for one of them."""
        for group in self.plan.group_names:
            texts: Counter[tuple[tuple[int, ...], ...]] = Counter()
            for client in self.plan.names(group):
                features = self.train_features(client)
                rows: dict[int, list[tuple[int, ...]]] = {}
                for number, feature in zip(example_numbers(features), features, strict=True):
                    rows.setdefault(number, []).append(tuple(original_ids(feature)))
                texts.update(tuple(each) for each in rows.values())
            repeated, most = sum(n > 1 for n in texts.values()), max(texts.values())
            if repeated:
                yield (
                    f"{repeated} texts of {group} are in several training examples, one of them in {most}; epsilon is "
                    "for one example, so for a text in k of them it is that of k examples"
                )

    def server_trains(self) -> bool:
        """Whether the server trains anything on what clients send, and so passes it on by its gradients."""
        return any(trained.parameters() for trained in self.server.groups.values())


def _present(found: dict[str, Norms | None]) -> dict[str, dict[str, float | None]]:
    return {name: asdict(norms) for name, norms in found.items() if norms is not None}


def _figure(epsilon: float) -> float | str:
    return INFINITE if math.isinf(epsilon) else epsilon
