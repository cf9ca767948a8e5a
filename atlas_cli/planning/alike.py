"""Many clients of a few kinds, each made when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Generic, Protocol, Self, TypeVar, overload


class _Named(Protocol):
    @property
    def name(self) -> str: ...

    def named(self, name: str) -> Self: ...


T = TypeVar("T", bound=_Named)
U = TypeVar("U", bound=_Named)


class Alike(Sequence[T], Generic[T]):
    """Clients in the order of the config, of which those of a kind differ in name alone.

    Their number and their kinds are known without them. All are made at once when one is asked for.

    Attributes:
        kinds: the first client of each kind.

    Args:
        counts: how many clients each kind has.
        names_of: the names of all clients of a kind, by its place among ``kinds``.
    """

    def __init__(self, kinds: Sequence[T], counts: Sequence[int], names_of: Callable[[int], Sequence[str]]) -> None:
        self.kinds, self._counts, self._names_of = tuple(kinds), tuple(counts), names_of

    @classmethod
    def single(cls, clients: Sequence[T]) -> Alike[T]:
        """Clients of which each is of a kind of its own."""
        return cls(clients, [1] * len(clients), lambda place: [clients[place].name])

    def names_of(self, place: int) -> Sequence[str]:
        """The names of all clients of a kind, by its place among ``kinds``."""
        return self._names_of(place)

    def each(self, change: Callable[[T], U]) -> Alike[U]:
        """What clients are changed into, of which those of a kind differ in name alone, too."""
        return Alike([change(first) for first in self.kinds], self._counts, self._names_of)

    @cached_property
    def _all(self) -> tuple[T, ...]:
        return tuple(
            first if name == first.name else first.named(name)
            for place, first in enumerate(self.kinds)
            for name in self._names_of(place)
        )

    def __len__(self) -> int:
        return sum(self._counts)

    def __iter__(self) -> Iterator[T]:
        return iter(self._all)

    @overload
    def __getitem__(self, place: int) -> T: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[T]: ...

    def __getitem__(self, place: int | slice) -> T | Sequence[T]:
        return self._all[place]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._all == tuple(other)

    def __hash__(self) -> int:
        return hash(self._all)
