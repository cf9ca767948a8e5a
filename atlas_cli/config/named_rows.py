"""The rows that ``partition.shards`` names, and all that is wrong with them, client by client."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from atlas_cli.printable import listed

Items = Sequence[int | str]
SHOWN = 3  # items, or clients that name a row as well, in the line of one client

_RANGE = re.compile(r"(\d{1,18})\s*-\s*(\d{1,18})").fullmatch


def ranges_of(items: Items, group: str, count: int | None = None) -> tuple[list[range], list[str]]:
    """The rows that a client names, and what is wrong with those that it cannot have, a part of a sentence a kind.

    Args:
        group: the task group of the client.
        count: how many rows the task group has, counted from 0; None: not known yet.
    """
    rows: list[range] = []
    malformed: list[str] = []
    backwards: list[str] = []
    outside: list[str] = []
    for item in items:
        match = _RANGE(item) if isinstance(item, str) else None
        if isinstance(item, str) and match is None:
            malformed.append(repr(item))
            continue
        first, last = (int(match[1]), int(match[2])) if match else (int(item), int(item))
        if last < first:
            backwards.append(repr(item))
        elif first < 0 or (count is not None and last >= count):
            outside.append(repr(item))
        else:
            rows.append(range(first, last + 1))
    wrong = []
    if malformed:
        what = "is neither a row number nor a range" if len(malformed) == 1 else "are neither row numbers nor ranges"
        wrong.append(f"{listed(malformed, SHOWN)} {what} such as '0-99'")
    if backwards:
        one = len(backwards) == 1
        ends = "ends before it begins" if one else "end before they begin"
        wrong.append(f"the range{'' if one else 's'} {listed(backwards, SHOWN)} {ends}")
    if outside:
        there = "rows count from 0" if count is None else f"task group {group} has rows 0 to {count - 1}"
        wrong.append(f"{listed(outside, SHOWN)} {'is' if len(outside) == 1 else 'are'} out of range: {there}")
    return rows, wrong


def named_twice(rows: Mapping[str, Sequence[range]]) -> dict[str, str]:
    """Of each client that names rows which it, or a client before it, has named already: which, and who.

    Args:
        rows: by client, in the order of the file, the clients of one task group.
    """
    every: set[int] = set()
    total = 0
    for of_client in rows.values():
        for each in of_client:
            every.update(each)
            total += len(each)
    if len(every) == total:
        return {}
    del every
    owner: dict[int, str] = {}
    found: dict[str, str] = {}
    for client, of_client in rows.items():
        again: dict[str, dict[int, None]] = {}
        for each in of_client:
            for row in each:
                if row in owner:
                    again.setdefault(owner[row], {})[row] = None
                else:
                    owner[row] = client
        if again:
            found[client] = _twice(client, again)
    return found


def _twice(client: str, again: Mapping[str, Collection[int]]) -> str:
    number = sum(map(len, again.values()))
    if number == 1:
        ((before, (row,)),) = again.items()
        return f"row {row} is named twice, by {before} and {client}"
    who = [f"{'itself' if before == client else before} ({_runs(rows)})" for before, rows in again.items()]
    return f"{number:,} rows are named twice, also by {listed(who, SHOWN)}"


def _runs(rows: Collection[int]) -> str:
    """``5-9, 12 and 3 more``: rows one after another as ranges."""
    found: list[list[int]] = []
    for row in sorted(rows):
        if found and row == found[-1][1] + 1:
            found[-1][1] = row
        else:
            found.append([row, row])
    return listed((str(first) if first == last else f"{first}-{last}" for first, last in found), SHOWN)
