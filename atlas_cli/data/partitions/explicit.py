"""``partition: {scheme: explicit}``: the rows that the config names, by their numbers in the source."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from atlas_cli.data.rows import RowNumbers
from atlas_cli.errors import ConfigError
from atlas_cli.suggest import did_you_mean

SHOWN = 10  # row numbers that a line names


def by_name(
    numbered: RowNumbers, clients: Sequence[str], named: Mapping[str, list[int | str]] | None, group: str
) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Training rows by client, and by client a note on rows that it names and does not get.

    Raises:
        ConfigError: a client without a shard, a row that is not there or named twice, a malformed range.
    """
    if named is None:
        raise ConfigError("scheme: explicit needs the rows of every client", key="partition.shards")
    place = {number: i for i, number in enumerate(numbered.rows)}
    held_out = {"test": frozenset(numbered.held_out), "validate": frozenset(numbered.validation)}
    owner: dict[int, str] = {}
    shards: dict[str, list[int]] = {}
    missing: dict[str, str] = {}
    for client in clients:
        key = f"partition.shards.{client}"
        if client not in named:
            raise ConfigError(
                f"client {client} of task group {group} is not named{did_you_mean(client, named)}",
                key="partition.shards",
            )
        wanted = [i for item in named[client] for i in _range(item, key, numbered.read, group)]
        for i in wanted:
            if i in owner:
                raise ConfigError(f"row {i} is named twice, by {owner[i]} and {client}", key=key)
            owner[i] = client
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
    return shards, missing


def _absent(rows: Sequence[int], wanted: int, why: str) -> str:
    if not rows:
        return ""
    listed = ", ".join(map(str, rows[:SHOWN])) + (", ..." if len(rows) > SHOWN else "")
    return f"{len(rows)} of the {wanted} rows that it names are {why} ({listed})"


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
