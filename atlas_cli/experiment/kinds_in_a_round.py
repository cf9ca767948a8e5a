"""Which of a million clients have the same lines in a round that reaches all, found without a look at each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from itertools import repeat
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from atlas_cli.config.client_names import Range, names_in
from atlas_cli.federation.client_state.member import STANDING, Standing
from atlas_cli.federation.federation import Federation
from atlas_cli.wire.ledger import Account, Ledger

T = TypeVar("T", bound=Hashable)
Kind = tuple[str, list[Range]]  # its first client, and the names of all


class KindsInARound:
    """The clients of a round that have no line of their own, by what their lines say but for the name.

    Args:
        apart: those that have one.
    """

    def __init__(self, federation: Federation, ledger: Ledger, apart: Collection[str]) -> None:
        self._clients, self._members = federation.plan.clients, federation.aggregator.members
        self._accounts: list[Account | None] = list(map(ledger.accounts.get, self._members))
        self._apart = [self._clients.places[client] for client in apart]

    def of_clients(self, epsilon: Iterable[Hashable] | None) -> list[Kind]:
        """By their lines in clients.jsonl.

        Args:
            epsilon: what is told of it, of each of all clients; None: nothing.
        """
        standings = list(map(STANDING, self._members.values()))
        one = dict(zip(standings, self._members.values(), strict=True))  # of those that stand so

        def said(key: tuple[Standing, Account | None, Hashable]) -> Hashable:
            standing, account, told = key
            sizes = tuple(account.bytes.values()) if account is not None else (0, 0)
            held = one[standing].exchanged_sha256(), standing.delivered_sha256
            return standing.task_group, standing.cluster, held, sizes, told

        told = repeat(None, len(standings)) if epsilon is None else epsilon
        return self._named(alike(zip(standings, self._accounts, told, strict=True), said, self._apart))

    def of_messages(self) -> list[Kind]:
        """Those that have any message, by their lines in messages.jsonl."""
        return self._named(alike(self._accounts, _said_of, self._apart))

    def _named(self, kinds: Iterable[NDArray[np.intp]]) -> list[Kind]:
        return [(next(names_in(names)), names) for names in map(self._clients.ranges, kinds)]


def alike(keys: Iterable[T], said: Callable[[T], Hashable], apart: Sequence[int] = ()) -> list[NDArray[np.intp]]:
    """The places of clients of which the same is said, ascending, by what is said in the order of the first of each.

    Args:
        keys: of the client at each place; a few of them are different.
        said: what a line says of clients with a key; None if they have none.
        apart: places of clients that are left out.
    """
    whose, numbers = list(keys), dict[Hashable, int]()
    of_key = {}
    for key in dict.fromkeys(whose):
        of_key[key] = -1 if (line := said(key)) is None else numbers.setdefault(line, len(numbers))
    found = np.fromiter(map(of_key.__getitem__, whose), np.intp, len(whose))
    found[list(apart)] = -1
    in_turn = np.argsort(found, kind="stable")
    kinds = np.split(in_turn, np.flatnonzero(np.diff(found[in_turn])) + 1)
    return sorted((kind for kind in kinds if len(kind) and found[kind[0]] >= 0), key=lambda kind: int(kind[0]))


def _said_of(account: Account | None) -> Hashable:
    return None if account is None else tuple(value for line in account.lines() for value in line.items())
