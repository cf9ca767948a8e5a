"""``partition: {scheme: column}``: rows that share a value go to one client."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas_cli.data import class_names as labels
from atlas_cli.errors import ConfigError
from atlas_cli.printable import listed
from atlas_cli.suggest import did_you_mean

if TYPE_CHECKING:
    from atlas_cli.config.schema.experiment import PartitionConfig

SHOWN = 8  # clients, or values, that a line names


def by_column(
    rows: Sequence[Mapping[str, Any]],
    clients: Sequence[str],
    config: PartitionConfig,
    rng: np.random.Generator,
    group: str,
) -> dict[str, list[int]]:
    """Row numbers by client.

    A value that is a client's name goes to that client. If no value is a client's name, each value goes, the most
    frequent first, to the client with the fewest rows. If only some are, ``partition.unmatched`` decides.

    Raises:
        ConfigError: no such column, rows without a value, values and clients that do not match, too few values.
    """
    by_value = _by_value(rows, config, group)
    named = [client for client in clients if client in by_value]
    if config.unmatched == "error":
        _require_match(by_value, clients, named, config, group)
    shards: dict[str, list[int]] = {client: [*by_value.get(client, [])] for client in clients}
    others = {value: found for value, found in by_value.items() if value not in shards}
    without = [client for client in clients if client not in by_value]
    if config.unmatched == "drop" and without:
        raise ConfigError(
            f"column {config.column!r} has no value for client {without[0]} of task group {group}, so it would have no"
            f" rows; remove this client, or use partition.unmatched: deal",
            key="partition.unmatched",
        )
    if config.unmatched != "drop" and len(others) < len(without):
        raise ConfigError(
            f"column {config.column!r} has {len(by_value)} values in task group {group}, fewer than its"
            f" {len(clients)} clients",
            key="partition.column",
        )
    if config.unmatched != "drop":
        _by_size(others, without or clients, shards, rng)
    return shards


def values_of(rows: Sequence[Mapping[str, Any]], shards: Mapping[str, list[int]], column: str) -> dict[str, list[str]]:
    """Values of the column by client, in the order of the rows."""
    return {client: list(dict.fromkeys(_text(rows[i], column) for i in shard)) for client, shard in shards.items()}


def mapping_sentence(values: Mapping[str, list[str]], shards: Mapping[str, list[int]], config: PartitionConfig) -> str:
    """The values of each client, in one line."""
    own = sum(client in found for client, found in values.items())
    if all(found == [client] for client, found in values.items()):
        how = "each client has the rows of its name"
        said = [f"{client} {len(shard):,} rows" for client, shard in islice(shards.items(), SHOWN)]
    else:
        how = f"{own} clients have the value of their name" if own else "no value is a client's name"
        how += ", the others were dealt by size"
        first = islice(values.items(), SHOWN)
        said = [f"{client}: {_listed(found)} ({len(shards[client]):,} rows)" for client, found in first]
    more = f"; and {len(shards) - SHOWN} more clients (manifest.json has all)" if len(shards) > SHOWN else ""
    return f"column {config.column!r}: {how}: {'; '.join(said)}{more}"


def _by_value(rows: Sequence[Mapping[str, Any]], config: PartitionConfig, group: str) -> dict[str, list[int]]:
    column = config.column
    present = set(chain.from_iterable(rows))
    if column is None:
        raise ConfigError("scheme: column needs the name of a column", key="partition.column")
    if column not in present:
        hint = did_you_mean(column, map(str, present))
        raise ConfigError(f"the data of task group {group} has no column {column!r}{hint}", key="partition.column")
    by_value: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        by_value.setdefault(_text(row, column), []).append(i)
    if "" in by_value and config.unmatched == "error":
        raise ConfigError(
            f"{len(by_value[''])} of {len(rows)} training rows of task group {group} have no value in column"
            f" {column!r}; fill it, or set partition.unmatched: deal or drop",
            key="partition.unmatched",
        )
    return by_value


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    return "" if value is None or (isinstance(value, str) and not value.strip()) else str(value)


def _require_match(
    by_value: Mapping[str, list[int]], clients: Sequence[str], named: Sequence[str], config: PartitionConfig, group: str
) -> None:
    """All values are clients' names and each client has one, or none is, not even in another spelling (``1.0``)."""
    alike = {labels.normal_form(client): client for client in clients}
    near = next(((value, alike[form]) for value in by_value if (form := labels.normal_form(value)) in alike), None)
    if near is None:
        return
    known = frozenset(clients)
    others = [value for value in by_value if value not in known]
    without = [client for client in clients if client not in by_value]
    if not others and not without:
        return
    problems = []
    if others:
        lost = sum(len(by_value[value]) for value in others)
        problems.append(f"{len(others)} values ({lost:,} rows) are no client of task group {group}: {_listed(others)}")
    if without:
        problems.append(f"{len(without)} of its clients have no value: {_listed(without)}")
    if not named:
        problems.append(f"{near[0]!r} differs from {near[1]} only in {labels.difference(*near)}")
    raise ConfigError(
        f"column {config.column!r} names clients, but {'; '.join(problems)}; make them match, or set"
        " partition.unmatched: deal (by size) or drop (those rows)",
        key="partition.unmatched",
    )


def _by_size(
    by_value: Mapping[str, list[int]],
    clients: Sequence[str],
    shards: dict[str, list[int]],
    rng: np.random.Generator,
) -> None:
    """Values, the most frequent first, each to the client with the fewest rows."""
    shuffled = rng.permutation(sorted(by_value)).tolist() if by_value else []
    fewest = [(len(shards[client]), i) for i, client in enumerate(clients)]
    heapq.heapify(fewest)
    for value in sorted(shuffled, key=lambda value: -len(by_value[value])):
        _, i = heapq.heappop(fewest)
        shards[clients[i]] += by_value[value]
        heapq.heappush(fewest, (len(shards[clients[i]]), i))


def _listed(names: Iterable[str]) -> str:
    return listed((f"{name:.40}" or "(none)" for name in names), SHOWN)
