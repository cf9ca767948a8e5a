"""The names of the clients of an entry, of which there may be a million."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload


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

    def _named(self, number: int) -> str:
        return self._entry if self._count == 1 else f"{self._entry}-{number}"
