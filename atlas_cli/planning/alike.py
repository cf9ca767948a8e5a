"""Many clients of a few kinds, each made when it is first asked for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate, chain, repeat
from typing import Generic, Protocol, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from atlas_cli.config.client_names import ClientNames, Range, as_ranges


class _Named(Protocol):
    @property
    def name(self) -> str: ...

    def named(self, name: str) -> Self: ...


T = TypeVar("T", bound=_Named)
U = TypeVar("U", bound=_Named)


class Alike(Sequence[T], Generic[T]):
    """Clients in the order of the config, of which those of a kind differ in name alone.

    Their number, their kinds and their names are known without them. One is made when it is asked for, all when they
    are gone through.

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

    @cached_property
    def names(self) -> list[str]:
        """The names of all clients; the list must not be changed."""
        return [*chain.from_iterable(map(self._names_of, range(len(self.kinds))))]

    @cached_property
    def places(self) -> dict[str, int]:
        """The place of each client by name."""
        return {name: place for place, name in enumerate(self.names)}

    @cached_property
    def by_name(self) -> Mapping[str, T]:
        """The clients by name."""
        return _ByName(self)

    def ranges_of(self, place: int) -> Iterator[Range]:
        """The same as ranges."""
        return self._between(self._begins[place], self._begins[place + 1] - 1)

    def ranges(self, places: NDArray[np.intp]) -> list[Range]:
        """The names of the clients at some ascending places (N), as ranges, without a look at each."""
        if not len(places):
            return []
        ends = np.flatnonzero(np.diff(places) != 1)
        firsts, lasts = places[np.append(0, ends + 1)], places[np.append(ends, -1)]
        return as_ranges(chain.from_iterable(map(self._between, firsts.tolist(), lasts.tolist())))

    def _between(self, first: int, last: int) -> Iterator[Range]:
        """The names from one place to another, both included, kind by kind."""
        kind = bisect_right(self._begins, first) - 1
        while first <= last:
            begin, end = self._begins[kind], min(last + 1, self._begins[kind + 1])
            names = self._names_of(kind)
            if isinstance(names, ClientNames):
                yield names.between(first - begin, end - 1 - begin)
            else:
                yield from names[first - begin : end - begin]
            first, kind = end, kind + 1

    @cached_property
    def _begins(self) -> list[int]:
        """The place of the first client of each kind, and at the end how many there are."""
        return [0, *accumulate(self._counts)]

    def each(self, change: Callable[[T], U]) -> Alike[U]:
        """What clients are changed into, of which those of a kind differ in name alone, too."""
        return Alike([change(first) for first in self.kinds], self._counts, self._names_of)

    @cached_property
    def _all(self) -> tuple[T, ...]:
        kinds = chain.from_iterable(map(repeat, self.kinds, self._counts))
        return tuple(
            first if name == first.name else first.named(name) for first, name in zip(kinds, self.names, strict=True)
        )

    def __len__(self) -> int:
        return self._begins[-1]

    def __iter__(self) -> Iterator[T]:
        return iter(self._all)

    @overload
    def __getitem__(self, place: int) -> T: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[T]: ...

    def __getitem__(self, place: int | slice) -> T | Sequence[T]:
        if isinstance(place, slice):
            return self._all[place]
        place = range(len(self))[place]  # IndexError, as of any sequence
        first, name = self.kinds[bisect_right(self._begins, place) - 1], self.names[place]
        return first if name == first.name else first.named(name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._all == tuple(other)

    def __hash__(self) -> int:
        return hash(self._all)


class _ByName(Mapping[str, T]):
    """Clients by name; those that were asked for are kept."""

    def __init__(self, clients: Alike[T]) -> None:
        self._clients, self._made = clients, dict[str, T]()

    def __getitem__(self, name: str) -> T:
        if name not in self._made:
            self._made[name] = self._clients[self._clients.places[name]]
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._clients.names)

    def __len__(self) -> int:
        return len(self._clients)
