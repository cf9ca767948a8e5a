"""Which of a million clients have the same lines in a round that reaches all, found without a look at each."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas_cli.config.client_names import Range, names_in
from atlas_cli.federation.client_state.member import STANDING, Standing, one_of_each
from atlas_cli.federation.federation import Federation
from atlas_cli.wire.ledger import Account, Ledger

Kind = tuple[str, list[Range]]  # its first client, and the names of all


class KindsInARound:
    """The clients of a round that have no line of their own, by what their lines say but for the name.

    Args:
        apart: those that have one.
        epsilon: what is told of it, of each of all clients; None: nothing.
    """

    def __init__(
        self, federation: Federation, ledger: Ledger, apart: Collection[str], epsilon: Iterable[Hashable] | None = None
    ) -> None:
        self._clients, self._members = federation.plan.clients, federation.aggregator.members
        told = list(epsilon) if epsilon is not None else [None] * len(self._members)
        in_order = list(ledger.accounts) == list(self._members)  # so is what was counted of all of a kind first
        accounts = ledger.accounts.values() if in_order else map(ledger.accounts.get, self._members)
        self._keys, self._numbers = numbered(list(map(STANDING, self._members.values())), list(accounts), told)
        self._numbers[[self._clients.places[client] for client in apart]] = -1

    def of_clients(self) -> list[Kind]:
        """By their lines in clients.jsonl."""
        one = one_of_each(self._members)

        def said(standing: Standing, account: Account | None, told: Hashable) -> Hashable:
            sizes = tuple(account.bytes.values()) if account is not None else (0, 0)
            held = one[standing].exchanged_sha256(), standing.delivered_sha256
            return standing.task_group, standing.cluster, held, sizes, told

        return self._named([said(*key) for key in self._keys])

    def of_messages(self) -> list[Kind]:
        """Those that have any message, by their lines in messages.jsonl."""
        said = {account: _said_of(account) for _, account, _ in self._keys}
        return self._named([said[account] for _, account, _ in self._keys])

    def _named(self, said: Sequence[Hashable]) -> list[Kind]:
        names = map(self._clients.ranges, alike(self._numbers, said))
        return [(next(names_in(ranges)), ranges) for ranges in names]


def numbered(*columns: Sequence[Any]) -> tuple[list[tuple[Any, ...]], NDArray[np.intp]]:
    """The distinct keys, whose parts are in columns (N), in the order of the first of each, and the number (N) of each.

    No key is kept for each place: of the columns they are made twice.
    """
    numbers = {key: number for number, key in enumerate(dict.fromkeys(zip(*columns, strict=True)))}
    found = map(numbers.__getitem__, zip(*columns, strict=True))
    return list(numbers), np.fromiter(found, np.intp, len(columns[0]))


def alike(numbers: NDArray[np.intp], said: Sequence[Hashable]) -> list[NDArray[np.intp]]:
    """The places of clients of which the same is said, ascending, by what is said in the order of the first of each.

    Args:
        numbers: of the key at each place (N); negative: it is left out.
        said: of each key; None: who has it is left out.
    """
    kinds: dict[Hashable, int] = {}
    of_key = [-1 if line is None else kinds.setdefault(line, len(kinds)) for line in said]
    found = np.array([*of_key, -1])[numbers]
    in_turn = np.argsort(found, kind="stable")
    parts = np.split(in_turn, np.flatnonzero(np.diff(found[in_turn])) + 1)
    return sorted((part for part in parts if len(part) and found[part[0]] >= 0), key=lambda part: int(part[0]))


def _said_of(account: Account | None) -> Hashable:
    return None if account is None else tuple(value for line in account.lines() for value in line.items())
