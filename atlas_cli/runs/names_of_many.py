"""The names in a line of many clients, as ranges."""

from __future__ import annotations

from collections.abc import Sequence

from atlas_cli.runs.record import Count

Range = str | tuple[str, Count, Count]
MOST_CLIENTS = 1_000_000  # of a run; a damaged line that says more would be written out name by name


def number_of(names: Sequence[Range]) -> int:
    """How many names ranges stand for.

    Raises:
        ValueError: a range that ends before it begins, or more names than a run can have clients.
    """
    if any(not isinstance(each, str) and each[2] < each[1] for each in names):
        raise ValueError("has a range of names that ends before it begins")
    number = sum(1 if isinstance(each, str) else each[2] - each[1] + 1 for each in names)
    if number > MOST_CLIENTS:
        raise ValueError(f"has {number:,} names, more than the {MOST_CLIENTS:,} clients that a run can have")
    return number
