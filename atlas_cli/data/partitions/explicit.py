"""``partition: {scheme: explicit}``: the rows that the config names, by their numbers in the source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from atlas_cli.data.rows import RowNumbers
from atlas_cli.errors import ConfigError
from atlas_cli.printable import listed
from atlas_cli.suggest import did_you_mean

SHOWN = 10  # row numbers that a line names
SHOWN_CLIENTS = 5  # with mistakes, a line each


def by_name(
    numbered: RowNumbers, clients: Sequence[str], named: Mapping[str, list[int | str]] | None, group: str
) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Training rows by client, and by client a note on rows that it names and does not get.

    Raises:
        ConfigError: a client without a shard, a row that is not there or named twice, a malformed range: of the first
            clients with a mistake a line each, in the order of ``named``, and the number of the others.
    """
    if named is None:
        raise ConfigError("scheme: explicit needs the rows of every client", key="partition.shards")
    if unnamed := [client for client in clients if client not in named]:
        who = f"client {unnamed[0]}" if len(unnamed) == 1 else f"clients {listed(unnamed, SHOWN_CLIENTS)}"
        raise ConfigError(
            f"{who} of task group {group} {'is' if len(unnamed) == 1 else 'are'} not named"
            f"{did_you_mean(unnamed[0], named)}",
            key="partition.shards",
        )
    place = {number: i for i, number in enumerate(numbered.rows)}
    held_out = {"test": frozenset(numbered.held_out), "validate": frozenset(numbered.validation)}
    owner: dict[int, str] = {}
    shards: dict[str, list[int]] = {}
    missing: dict[str, str] = {}
    mistakes: list[ConfigError] = []
    asked = frozenset(clients)
    for client in filter(asked.__contains__, named):
        try:
            wanted = _rows_of(client, named[client], owner, numbered.read, group)
        except ConfigError as error:
            mistakes.append(error)
            continue
        owner.update(dict.fromkeys(wanted, client))
        shards[client] = [place[i] for i in wanted if i in place]
        if len(shards[client]) == len(wanted):
            continue
        reasons = [
            _absent([i for i in wanted if i in rows], len(wanted), f"held out to {what} on")
            for what, rows in held_out.items()
        ]
        left = [i for i in wanted if i not in place and not any(i in rows for rows in held_out.values())]
        reasons.append(_absent(left, len(wanted), "left out by data.limit"))
        if any(reasons):
            missing[client] = "; ".join(filter(None, reasons))
    if mistakes:
        raise _all_of(mistakes)
    return shards, missing


def _rows_of(client: str, items: list[int | str], owner: Mapping[int, str], count: int, group: str) -> list[int]:
    """The rows that a client names, none of which has an owner yet."""
    key = f"partition.shards.{client}"
    wanted = [i for item in items for i in _range(item, key, count, group)]
    if len(set(wanted)) < len(wanted) or not owner.keys().isdisjoint(wanted):
        again = _first_again(wanted, owner)
        raise ConfigError(f"row {again} is named twice, by {owner.get(again, client)} and {client}", key=key)
    return wanted


def _first_again(wanted: Iterable[int], owner: Mapping[int, str]) -> int:
    seen: set[int] = set()
    for i in wanted:
        if i in owner or i in seen:
            return i
        seen.add(i)
    raise ValueError("each is named once")


def _all_of(mistakes: Sequence[ConfigError]) -> ConfigError:
    """One error of the first few mistakes, each with its key, and the number of the others."""
    first, *others = mistakes
    if left := len(others[SHOWN_CLIENTS - 1 :]):
        more = "shard of another client has a mistake" if left == 1 else f"shards of {left:,} others have mistakes"
        others[SHOWN_CLIENTS - 1 :] = [ConfigError(f"the {more}, too", key="partition.shards")]
    first.others = tuple(others)
    return first


def _absent(rows: Sequence[int], wanted: int, why: str) -> str:
    if not rows:
        return ""
    shown = ", ".join(map(str, rows[:SHOWN])) + (", ..." if len(rows) > SHOWN else "")
    return f"{len(rows)} of the {wanted} rows that it names are {why} ({shown})"


def _range(item: int | str, key: str, count: int, group: str) -> range:
    match = re.fullmatch(r"(\d+)\s*-\s*(\d+)", item) if isinstance(item, str) else None
    if isinstance(item, str) and match is None:
        raise ConfigError(f"{item!r} is neither a row number nor a range such as '0-99'", key=key)
    first, last = (int(match[1]), int(match[2])) if match else (int(item), int(item))
    if last < first:
        raise ConfigError(f"the range {item!r} ends before it begins", key=key)
    if first < 0 or last >= count:
        raise ConfigError(f"{item!r} is out of range: task group {group} has rows 0 to {count - 1}", key=key)
    return range(first, last + 1)
