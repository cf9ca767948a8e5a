"""Checks of ``partition.shards`` that need no data: who is named, and with which rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

from atlas_cli.config.named_rows import Items, named_twice, ranges_of
from atlas_cli.config.problems import Problem
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.printable import listed
from atlas_cli.suggest import did_you_mean

SHOWN = 5  # shards with a mistake of one kind, a line each, so that no kind hides another
MOST_ROWS = 20_000_000  # that are compared: before the data is read nobody knows how many there can be


def shard_problems(config: ExperimentConfig, shards: Mapping[str, Items]) -> Iterator[Problem]:
    """Names of no client, clients without a shard, and rows that nobody can have or that two have."""
    groups: dict[str, list[str]] = {}
    for kind in config.client_kinds():
        groups.setdefault(kind.task_group, []).extend(config.names_of(kind))
    names = dict.fromkeys(chain.from_iterable(groups.values()))
    yield from _unknown(shards, names)
    if lacking := [name for name in names if name not in shards]:
        clients = f"client {lacking[0]} has" if len(lacking) == 1 else f"clients {listed(lacking, SHOWN)} have"
        yield Problem(("partition", "shards"), f"{clients} no shard")
    wrong: dict[str, str] = {}
    for group, clients_of_group in groups.items():
        wrong |= _wrong_rows(group, {name: shards[name] for name in clients_of_group if name in shards})
    shown = [name for name in shards if name in wrong][:SHOWN]
    for name in shown:
        left = len(wrong) - len(shown) if name is shown[-1] else 0
        more = f" (and {left:,} more shard{'s have' if left > 1 else ' has'} mistakes)" if left else ""
        yield Problem(("partition", "shards", name), wrong[name] + more)


def _unknown(shards: Mapping[str, Items], names: Mapping[str, None]) -> Iterator[Problem]:
    unknown = [name for name in shards if name not in names]
    for name in unknown[:SHOWN]:
        left = len(unknown) - SHOWN if name is unknown[:SHOWN][-1] else 0
        more = f" (and {left:,} more shard{'s have' if left > 1 else ' has'} no client)" if left > 0 else ""
        yield Problem(("partition", "shards", name), f"no client has this name{did_you_mean(name, names)}{more}")


def _wrong_rows(group: str, shards: Mapping[str, Items]) -> dict[str, str]:
    """What is wrong with the rows of the clients of one task group."""
    parts: dict[str, list[str]] = {}
    rows = {}
    for name, items in shards.items():
        rows[name], wrong = ranges_of(items, group)
        if wrong:
            parts[name] = wrong
    if sum(len(each) for of_client in rows.values() for each in of_client) <= MOST_ROWS:
        for name, text in named_twice(rows).items():
            parts.setdefault(name, []).append(text)
    return {name: "; ".join(parts[name]) for name in parts}
