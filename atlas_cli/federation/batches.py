"""A client's batches.

Batches are a pure function of its examples and the step, in whichever process they are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from atlas_cli.data.collate import Batch, batch_numbers, collate, poisson_indices
from atlas_cli.federation.federation import Federation
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
            chosen = [i for i, number in enumerate(numbers) if number in drawn]
        else:
            chosen = batch_numbers(self.task, self.features, self.size, self.seed, self.client, overall)
        batch = collate(self.task, [self.features[i] for i in chosen], self.pad, self.multiple, self.most)
        return replace(batch, numbers=chosen)


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
