"""Which training rows each client of a task group holds, and which of those it keeps for its own test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    if config.scheme == "explicit":
        by_client, missing = by_name(
            numbered or RowNumbers(range(len(rows)), (), len(rows)), names, config.shards, group, config.min_examples
        )
        notes = [f"client {client}: {missing[client]}" for client in clients if client in missing]
    else:
        if len(rows) < len(names) * config.min_examples:
            raise ConfigError(
                f"task group {group} has {len(rows)} training examples for {len(names)} clients, each needs at least"
                f" {config.min_examples}; use fewer clients, more data or a smaller partition.min_examples",
                key="partition.min_examples",
                beside=f"task_groups.{group}",
            )
        by_client = _dealt(rows, names, config, labels, numpy_generator(seed, "partition", group), group)
    _require_enough(by_client, clients, config, group)
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


def _require_enough(
    by_client: Mapping[str, Sequence[int]], clients: Sequence[str], config: PartitionConfig, group: str
) -> None:
    sizes = {client: len(by_client[client]) for client in clients if len(by_client[client]) < config.min_examples}
    if not sizes:
        return
    few = min(sizes, key=lambda client: sizes[client])
    advice = "use fewer clients or more data"
    if config.scheme.startswith("dirichlet"):
        advice = f"raise partition.alpha (now {config.alpha:g}), {advice}"
    examples = f"{sizes[few]} training example{'' if sizes[few] == 1 else 's'}"
    others = f" and {len(sizes) - 1:,} more client{'' if len(sizes) == 2 else 's'} too few" if len(sizes) > 1 else ""
    raise ConfigError(
        f"{config.scheme} leaves client {few} of task group {group} {examples}{others}, at least {config.min_examples}"
        f" are needed; {advice} or lower partition.min_examples",
        key="partition.scheme",
    )


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


def _dealt(
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    config: PartitionConfig,
    labels: Sequence[str | None],
    rng: np.random.Generator,
    group: str,
) -> dict[str, list[int]]:
    """All rows by client; where a scheme leaves a client too few, that is how they are returned."""
    if config.scheme == "column":
        return by_column(rows, names, config, rng, group)
    if config.scheme == "iid":
        sizes = np.full(len(names), len(rows) // len(names))
        sizes[: len(rows) % len(names)] += 1
        shards = _cut(rng.permutation(len(rows)), np.cumsum(sizes))
        return dict(zip(names, shards, strict=True))
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
    return dict(zip(names, _dirichlet(pools, len(names), config, rng), strict=True))


def _dirichlet(pools: Sequence[list[int]], clients: int, config: PartitionConfig, rng: np.random.Generator) -> Shards:
    """Each pool is shuffled and cut at shares drawn from a symmetric Dirichlet distribution over the clients.

    Of ``DRAWS`` draws it is the first that leaves every client ``min_examples``, else the last. Rows are handed out of
    this one alone: of the others only their numbers are looked at.
    """
    arrays, concentrations = [np.array(pool) for pool in pools], np.full(clients, config.alpha)
    for _ in range(DRAWS):
        drawn, sizes = [], np.zeros(clients, dtype=int)
        for pool in arrays:
            cuts = np.rint(np.cumsum(rng.dirichlet(concentrations))[:-1] * len(pool)).astype(int)
            ends = np.append(cuts, len(pool))
            drawn.append((rng.permutation(pool), ends))
            sizes += np.diff(ends, prepend=0)
        if sizes.min() >= config.min_examples:
            break
    shards: Shards = [[] for _ in range(clients)]
    for pool, ends in drawn:
        for shard, part in zip(shards, _cut(pool, ends), strict=True):
            shard += part
    return shards


def _cut(rows: np.ndarray, ends: np.ndarray) -> Iterator[list[int]]:
    """Parts of rows, each up to its end from that of the one before."""
    numbers, start = rows.tolist(), 0
    for end in ends.tolist():
        yield numbers[start:end]
        start = end
