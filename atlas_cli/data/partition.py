"""Which training rows each client of a task group holds, and which of those it keeps for its own test."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas_cli.errors import ConfigError
from atlas_cli.seeding import numpy_generator
from atlas_cli.suggest import did_you_mean

if TYPE_CHECKING:
    from atlas_cli.config.schema import PartitionConfig

DRAWS = 100
Shards = list[list[int]]


def partition(
    rows: Sequence[Mapping[str, Any]],
    clients: Sequence[str],
    config: PartitionConfig,
    labels: Sequence[str | None],
    seed: int,
    group: str,
) -> dict[str, list[int]]:
    """Deal the rows of one task group out to its clients; no row goes to two.

    Every scheme but ``explicit`` deals out all rows. The result depends on the set of clients, not on their order. A
    Dirichlet draw that leaves a client too few rows is drawn again, up to 100 times.

    Args:
        rows: training rows of the group.
        clients: names of its clients.
        config: the scheme and its parameters.
        labels: of each row; None where a row has none.
        seed: of the experiment.
        group: name of the task group.

    Returns:
        Sorted row numbers by client, in the order of ``clients``.

    Raises:
        ConfigError: the scheme does not fit the rows, or a client gets fewer than ``min_examples``.
    """
    names = sorted(clients)
    if config.scheme == "explicit":
        shards = _explicit(len(rows), names, config.shards, group)
    else:
        if len(rows) < len(names) * config.min_examples:
            raise ConfigError(
                f"task group {group} has {len(rows)} training examples for {len(names)} clients, each needs at least"
                f" {config.min_examples}; use fewer clients, more data or a smaller partition.min_examples",
                key="partition.min_examples",
            )
        deal = _dealer(rows, len(names), config, labels, numpy_generator(seed, "partition", group), group)
        for _ in range(DRAWS if config.scheme.startswith("dirichlet") else 1):
            shards = deal()
            if min(map(len, shards)) >= config.min_examples:
                break
    by_name = dict(zip(names, shards, strict=True))
    few = min(clients, key=lambda client: len(by_name[client]))
    if len(by_name[few]) < config.min_examples:
        advice = "name more rows" if config.scheme == "explicit" else "use fewer clients or more data"
        if config.scheme.startswith("dirichlet"):
            advice = f"raise partition.alpha (now {config.alpha:g}), {advice}"
        raise ConfigError(
            f"{config.scheme} leaves client {few} of task group {group} {len(by_name[few])} training examples, at least"
            f" {config.min_examples} are needed; {advice} or lower partition.min_examples",
            key="partition.scheme",
        )
    return {client: sorted(by_name[client]) for client in clients}


def split_local_test(indices: Sequence[int], share: float, seed: int, client: str) -> tuple[list[int], list[int]]:
    """A client's rows as (train, test), both sorted: ``share`` of them to test on, at least one to train on.

    Args:
        indices: the client's row numbers.
        share: of the rows, 0 to below 1; the number of test rows is rounded half up.
        seed: of the experiment.
        client: its name.
    """
    count = min(int(len(indices) * share + 0.5), max(len(indices) - 1, 0))
    order = numpy_generator(seed, "local-test", client).permutation(sorted(indices)).tolist()
    return sorted(order[count:]), sorted(order[:count])


def _dealer(
    rows: Sequence[Mapping[str, Any]],
    clients: int,
    config: PartitionConfig,
    labels: Sequence[str | None],
    rng: np.random.Generator,
    group: str,
) -> Callable[[], Shards]:
    """A function that deals all rows out once, and differently at the next call where the scheme is random."""
    if config.scheme == "iid":
        return lambda: [part.tolist() for part in np.array_split(rng.permutation(len(rows)), clients)]
    if config.scheme == "dirichlet-quantity":
        return lambda: _dirichlet([list(range(len(rows)))], clients, config.alpha, rng)
    if config.scheme == "dirichlet-label":
        if any(label is None for label in labels):
            raise ConfigError(
                f"dirichlet-label needs one label a row, task group {group} has none; use dirichlet-quantity or iid",
                key="partition.scheme",
            )
        by_label: dict[str, list[int]] = {}
        for i, label in enumerate(labels):
            by_label.setdefault(str(label), []).append(i)
        return lambda: _dirichlet([by_label[label] for label in sorted(by_label)], clients, config.alpha, rng)
    return lambda: _by_column(rows, clients, config.column, rng, group)


def _dirichlet(pools: Sequence[list[int]], clients: int, alpha: float, rng: np.random.Generator) -> Shards:
    """Each pool is shuffled and cut at shares drawn from a symmetric Dirichlet distribution over the clients."""
    shards: Shards = [[] for _ in range(clients)]
    for pool in pools:
        shares = rng.dirichlet(np.full(clients, alpha))
        cuts = np.rint(np.cumsum(shares)[:-1] * len(pool)).astype(int)
        for shard, part in zip(shards, np.split(rng.permutation(pool), cuts), strict=True):
            shard += part.tolist()
    return shards


def _by_column(
    rows: Sequence[Mapping[str, Any]], clients: int, column: str | None, rng: np.random.Generator, group: str
) -> Shards:
    """Rows that share a value stay together; values go, the most frequent first, to the client with the fewest rows."""
    present = {name for row in rows for name in row}
    if column is None:
        raise ConfigError("scheme: column needs the name of a column", key="partition.column")
    if column not in present:
        hint = did_you_mean(column, map(str, present))
        raise ConfigError(f"the data of task group {group} has no column {column!r}{hint}", key="partition.column")
    by_value: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        by_value.setdefault(str(row.get(column)), []).append(i)
    if len(by_value) < clients:
        raise ConfigError(
            f"column {column!r} has {len(by_value)} values in task group {group}, fewer than its {clients} clients",
            key="partition.column",
        )
    shards: Shards = [[] for _ in range(clients)]
    shuffled = rng.permutation(sorted(by_value)).tolist()
    fewest = [(0, i) for i in range(clients)]  # a heap
    for value in sorted(shuffled, key=lambda value: -len(by_value[value])):
        _, i = heapq.heappop(fewest)
        shards[i] += by_value[value]
        heapq.heappush(fewest, (len(shards[i]), i))
    return shards


def _explicit(count: int, clients: Sequence[str], named: dict[str, list[int | str]] | None, group: str) -> Shards:
    """The rows that the config names, by client; row numbers count from 0 over the group's training rows."""
    if named is None:
        raise ConfigError("scheme: explicit needs the rows of every client", key="partition.shards")
    owner: dict[int, str] = {}
    shards: Shards = []
    for client in clients:
        key = f"partition.shards.{client}"
        if client not in named:
            raise ConfigError(
                f"client {client} of task group {group} is not named{did_you_mean(client, named)}",
                key="partition.shards",
            )
        shard = [i for item in named[client] for i in _range(item, key, count, group)]
        for i in shard:
            if i in owner:
                raise ConfigError(f"row {i} is named twice, by {owner[i]} and {client}", key=key)
            owner[i] = client
        shards.append(shard)
    return shards


def _range(item: int | str, key: str, count: int, group: str) -> range:
    match = re.fullmatch(r"(\d+)\s*-\s*(\d+)", item) if isinstance(item, str) else None
    if isinstance(item, str) and match is None:
        raise ConfigError(f"{item!r} is neither a row number nor a range such as '0-99'", key=key)
    first, last = (int(match[1]), int(match[2])) if match else (int(item), int(item))
    if last < first:
        raise ConfigError(f"the range {item!r} ends before it begins", key=key)
    if first < 0 or last >= count:
        raise ConfigError(f"{item!r} is out of range: task group {group} has training rows 0 to {count - 1}", key=key)
    return range(first, last + 1)
