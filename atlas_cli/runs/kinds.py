"""Lines of records that are of all clients of a kind, and what they say of each.

Of more than ``MOST_NAMED`` clients, the rounds that reach all of them have a line for each client that took part, and
one for those others of which all is the same: it has their names as ranges and their number in the place of ``client``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from atlas_cli.config.client_names import Range, as_ranges, count_of, names_in

Line = dict[str, Any]


def line_of_kind(line: Mapping[str, Any], names: Iterable[Range]) -> Line:
    """The line of several clients that is, but for the name, the ``line`` of each of them."""
    ranges = as_ranges(names)
    if (count := count_of(ranges)) == 1:
        return {name: ranges[0] if name == "client" else value for name, value in line.items()}
    found: Line = {}
    for name, value in line.items():
        found |= {"names": ranges, "count": count} if name == "client" else {name: value}
    return found


def each_client(lines: Iterable[Line], labels: Iterable[Mapping[str, Any]] = ()) -> Iterator[Line]:
    """A line for each client, where some are of a kind; values are shared.

    Args:
        labels: lines of labels.jsonl, whose counts are put into the lines of round 0.
    """
    of_client = {client: counts for columns in labels for client, counts in _counts(columns)}
    for line in lines:
        for each in _of_each(line) if "names" in line else (line,):
            counts = of_client.get(each["client"]) if of_client and line["round"] == 0 else None
            yield {**each, "labels": counts} if counts else each


def _of_each(line: Line) -> Iterator[Line]:
    before = {"round": line["round"]}
    after = {name: value for name, value in line.items() if name not in ("round", "names", "count")}
    return ({**before, "client": client, **after} for client in names_in(line["names"]))


def _counts(columns: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, int]]]:
    classes, places, counts = columns["classes"], iter(columns["places"]), iter(columns["counts"])
    for client, number in zip(names_in(columns["names"]), columns["distinct"], strict=True):
        yield client, {classes[next(places)]: next(counts) for _ in range(number)}
