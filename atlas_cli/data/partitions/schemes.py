"""Which training rows each client of a task group holds, and which of those it keeps for its own test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas_cli.data.partitions.by_column import by_column, mapping_sentence, values_of
from atlas_cli.data.partitions.explicit import by_name
from atlas_cli.data.rows import RowNumbers
from atlas_cli.errors import ConfigError
from atlas_cli.seeding import numpy_generator

if TYPE_CHECKING:
    from atlas_cli.config.schema.experiment import PartitionConfig

DRAWS = 100
Shards = list[list[int]]


@dataclass(frozen=True)
class Partition:
    """The rows of a task group, divided among its clients.

    Attributes:
        shards: sorted row numbers by client, in the order of the clients.
        unused: rows that no client has.
        values: for ``scheme: column``, the values of the column by client.
        notes: sentences that are shown with the group's sizes.
    """

    shards: dict[str, list[int]]
    unused: int = 0
    values: dict[str, list[str]] | None = None
    notes: list[str] = field(default_factory=list)


def partition(
    rows: Sequence[Mapping[str, Any]],
    clients: Sequence[str],
    config: PartitionConfig,
    labels: Sequence[str | None],
    seed: int,
    group: str,
    numbered: RowNumbers | None = None,
) -> Partition:
    """Divide the rows of one task group among its clients; no row goes to two.

    Every scheme but ``explicit``, and ``column`` with ``unmatched: drop``, assigns all rows. The result depends on
    the set of clients, not on their order. A Dirichlet draw that leaves a client too few rows is drawn again, up to 100
    times.

    Args:
        rows: training rows of the group.
        clients: names of its clients.
        config: the scheme and its parameters.
        labels: of each row; None where a row has none.
        seed: the seed of the data.
        group: name of the task group.
        numbered: the numbers of the rows in their source; default: they are all of its rows.

    Raises:
        ConfigError: the scheme does not fit the rows, or a client gets fewer than ``min_examples``.
    """
    names = sorted(clients)
    notes: list[str] = []
    missing: dict[str, str] = {}
    if config.scheme == "explicit":
        by_client, missing = by_name(
            numbered or RowNumbers(range(len(rows)), (), len(rows)), names, config.shards, group
        )
        notes = [f"client {client}: {missing[client]}" for client in clients if client in missing]
    else:
        if len(rows) < len(names) * config.min_examples:
            raise ConfigError(
                f"task group {group} has {len(rows)} training examples for {len(names)} clients, each needs at least"
                f" {config.min_examples}; use fewer clients, more data or a smaller partition.min_examples",
                key="partition.min_examples",
            )
        deal = _dealer(rows, names, config, labels, numpy_generator(seed, "partition", group), group)
        for _ in range(DRAWS if config.scheme.startswith("dirichlet") else 1):
            by_client = deal()
            if min(map(len, by_client.values())) >= config.min_examples:
                break
    few = min(clients, key=lambda client: len(by_client[client]))
    if len(by_client[few]) < config.min_examples:
        advice = "name more rows" if config.scheme == "explicit" else "use fewer clients or more data"
        if config.scheme.startswith("dirichlet"):
            advice = f"raise partition.alpha (now {config.alpha:g}), {advice}"
        because = f" ({missing[few]})" if few in missing else ""
        raise ConfigError(
            f"{config.scheme} leaves client {few} of task group {group} {len(by_client[few])} training"
            f" examples{because}, at least {config.min_examples} are needed; {advice} or lower partition.min_examples",
            key="partition.scheme",
        )
    shards = {client: sorted(by_client[client]) for client in clients}
    unused = len(rows) - sum(map(len, shards.values()))
    values = None
    if config.scheme == "column" and config.column is not None:
        values = values_of(rows, shards, config.column)
        notes.append(mapping_sentence(values, shards, config))
    if unused:
        why = "are named by no client" if config.scheme == "explicit" else "have a value that is no client's name"
        notes.append(f"{unused:,} of {len(rows):,} training rows {why} and are not used")
    return Partition(shards, unused, values, notes)


def split_local_test(indices: Sequence[int], share: float, seed: int, client: str) -> tuple[list[int], list[int]]:
    """Split a client's rows into (train, test), both sorted: a ``share`` for testing, at least one for training.

    Args:
        indices: the client's row numbers.
        share: of the rows, 0 to below 1; the number of test rows is rounded half up.
        seed: the seed of the experiment.
        client: its name.
    """
    count = min(int(len(indices) * share + 0.5), max(len(indices) - 1, 0))
    if count == 0:  # no draw: a generator takes longer than all else that is done for a client of a few rows
        return sorted(indices), []
    order = numpy_generator(seed, "local-test", client).permutation(sorted(indices)).tolist()
    return sorted(order[count:]), sorted(order[:count])


def _dealer(
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    config: PartitionConfig,
    labels: Sequence[str | None],
    rng: np.random.Generator,
    group: str,
) -> Callable[[], dict[str, list[int]]]:
    """A function that deals all rows out once, and differently at the next call where the scheme is random."""
    if config.scheme == "column":
        return lambda: by_column(rows, names, config, rng, group)
    pools = [list(range(len(rows)))]
    if config.scheme == "dirichlet-label":
        if any(label is None for label in labels):
            raise ConfigError(
                f"dirichlet-label needs one class a row, task group {group} has none; use dirichlet-quantity or iid",
                key="partition.scheme",
            )
        by_label: dict[str, list[int]] = {}
        for i, label in enumerate(labels):
            by_label.setdefault(str(label), []).append(i)
        pools = [by_label[label] for label in sorted(by_label)]

    def deal() -> dict[str, list[int]]:
        if config.scheme == "iid":
            shards = [part.tolist() for part in np.array_split(rng.permutation(len(rows)), len(names))]
        else:
            shards = _dirichlet(pools, len(names), config.alpha, rng)
        return dict(zip(names, shards, strict=True))

    return deal


def _dirichlet(pools: Sequence[list[int]], clients: int, alpha: float, rng: np.random.Generator) -> Shards:
    """Each pool is shuffled and cut at shares drawn from a symmetric Dirichlet distribution over the clients."""
    shards: Shards = [[] for _ in range(clients)]
    for pool in pools:
        shares = rng.dirichlet(np.full(clients, alpha))
        cuts = np.rint(np.cumsum(shares)[:-1] * len(pool)).astype(int)
        for shard, part in zip(shards, np.split(rng.permutation(pool), cuts), strict=True):
            shard += part.tolist()
    return shards
