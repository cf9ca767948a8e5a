"""The names of clients, of which there may be a million: those of an entry, and ranges of any."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

MOST_NAMED = 10_000  # clients that records have one by one
Range = str | tuple[str, int, int]


def are_folded(clients: int) -> bool:
    """Whether records have the clients of a kind as one, as there are more than ``MOST_NAMED``."""
    return clients > MOST_NAMED


def as_ranges(names: Iterable[Range]) -> list[Range]:
    """Names in their order, of which ``NAME-5``, ``NAME-6`` and ``NAME-7`` are one: ``("NAME", 5, 7)``.

    Args:
        names: each by itself, or some as ranges already.
    """
    found: list[Range] = []
    entry, first, last, awaited = "", 0, 0, None
    for each in names:
        name, more = (each, 0) if isinstance(each, str) else (f"{each[0]}-{each[1]}", each[2] - each[1])
        if name == awaited:
            last += 1 + more
            found[-1] = entry, first, last
        else:
            found.append(name)
            entry, dash, number = name.rpartition("-")
            counts = dash and number.isascii() and number.isdigit() and number[0] != "0"
            first = last = int(number) if counts else 0
            if more:
                last += more
                found[-1] = entry, first, last
        awaited = f"{entry}-{last + 1}" if first else None
    return found


def count_of(ranges: Iterable[Range]) -> int:
    """How many names ranges have."""
    return sum(1 if isinstance(each, str) else each[2] - each[1] + 1 for each in ranges)


def names_in(ranges: Iterable[Range]) -> Iterator[str]:
    """The inverse of ``as_ranges``."""
    for each in ranges:
        if isinstance(each, str):
            yield each
        else:
            entry, first, last = each
            yield from (f"{entry}-{number}" for number in range(first, last + 1))


class ClientNames(Sequence[str]):
    """The names of the ``count`` clients of an entry: its own, or ``NAME-1`` to ``NAME-count``.

    Each is made when it is asked for, and none is kept.
    """

    def __init__(self, entry: str, count: int) -> None:
        self._entry, self._count = entry, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        if self._count == 1:
            return iter((self._entry,))
        return (f"{self._entry}-{number}" for number in range(1, self._count + 1))

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        numbers = range(1, self._count + 1)[place]  # IndexError, as of any sequence
        if isinstance(numbers, range):
            return [self._named(number) for number in numbers]
        return self._named(numbers)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str) or self._count == 1:
            return name == self._entry
        entry, _, number = name.rpartition("-")
        if entry != self._entry or not (number.isascii() and number.isdigit()):
            return False
        return number[0] != "0" and int(number) <= self._count

    def between(self, first: int, last: int) -> Range:
        """The names from one place to another, both included, as a range."""
        return self[first] if first == last else (self._entry, first + 1, last + 1)

    def _named(self, number: int) -> str:
        return self._entry if self._count == 1 else f"{self._entry}-{number}"
