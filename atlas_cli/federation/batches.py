"""A client's batches, and its work on them in a round.

Batches are a pure function of its examples and the step, in whichever process they are computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from atlas_cli.data.collate import Batch, batch_features, collate, poisson_indices
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.parties.trainables import StepLoss
from atlas_cli.tasks.contract import BaseTask, Feature, example_numbers


@dataclass(frozen=True)
class ClientBatches:
    """All batches of a client.

    Attributes:
        size: sequences in a batch; not used where ``rate`` is given, the probability with which a Poisson sample takes
            each example with all its sequences.
        pad: the token to pad with; ``multiple`` and ``most``: as in ``collate``.
    """

    client: str
    features: Sequence[Feature]
    task: BaseTask
    size: int
    rate: float | None
    seed: int
    pad: int
    multiple: int | None
    most: int

    def at(self, overall: int) -> Batch:
        """The batch at a local step, counted over all rounds."""
        if self.rate is not None:
            numbers = example_numbers(self.features)
            drawn = set(poisson_indices(len(set(numbers)), self.rate, self.seed, self.client, overall))
            chosen = [self.features[i] for i, number in enumerate(numbers) if number in drawn]
        else:
            chosen = batch_features(self.task, self.features, self.size, self.seed, self.client, overall)
        return collate(self.task, chosen, self.pad, self.multiple, self.most)


def batches_of(federation: Federation, client: str) -> ClientBatches:
    """The batches of a client of a federation."""
    poisson = federation.config.privacy.examples is not None
    return ClientBatches(
        client,
        federation.train_features(client),
        federation.data[federation.group_of(client)].task,
        federation.batch_size(client),
        federation.protection.account.participation.rate(client) if poisson else None,
        federation.config.seed,
        federation.pad,
        *federation.padding,
    )


def batch_of(federation: Federation, client: str, overall: int) -> Batch:
    """A client's batch at a local step, counted over all rounds."""
    return batches_of(federation, client).at(overall)


@dataclass
class LocalWork:
    """The work of one client in a round, whichever engine ran it.

    Steps, examples, real tokens, wall seconds, the sum of loss over ``labels``, and the padded shape of every batch and
    of what the client computed of it.
    """

    steps: int = 0
    examples: int = 0
    tokens: int = 0
    labels: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    shapes: list[tuple[int, int]] = field(default_factory=list)
    computed: list[tuple[int, int]] = field(default_factory=list)

    @property
    def loss(self) -> float | None:
        """Mean loss over all labels of the round."""
        return self.loss_sum / self.labels if self.labels else None

    @classmethod
    def together(cls, works: Iterable[LocalWork]) -> LocalWork:
        """The work of several clients, but for the shapes of their batches."""
        each = list(works)
        counted = ("steps", "examples", "tokens", "labels", "seconds", "loss_sum")
        return cls(**{name: sum(getattr(work, name) for work in each) for name in counted})

    def add(self, batch: Batch, loss: StepLoss, seconds: float) -> None:
        """Count one step."""
        self.seconds += seconds
        self.shapes.append((batch.input_ids.shape[0], batch.input_ids.shape[1]))
        self.computed.append(loss.computed or self.shapes[-1])
        self.steps += 1
        self.examples += batch.n_examples
        self.tokens += batch.n_tokens
        self.labels += loss.count
        self.loss_sum += loss.mean * loss.count
