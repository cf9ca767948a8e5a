"""Copies of what the server trains for a group, one for each client that it serves (SplitFed V1).

A copy lives from the start of its client's local steps to the merge, which is a round, or with ``training.asynchrony``
what lies between two deliveries to the client.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from atlas_cli.federation.parties.trainables import Trainables
from atlas_cli.storage.state_dict import (
    StateDict,
    copies,
    copy_into,
    fields_of,
    is_count,
    pop_prefix,
    require_value,
    tensors_and_values,
    with_prefix,
)


class Copy(NamedTuple):
    """A client's copy; ``began`` are the trained values that it began with, where others may merge before it does."""

    part: str
    trained: Trainables
    began: list[Tensor]


class ServerCopies:
    """The copies of a server by client.

    Args:
        keep_began: whether others may merge while a client trains.

    Attributes:
        groups: what is copied.
    """

    def __init__(self, groups: Mapping[str, Trainables], *, keep_began: bool) -> None:
        self.groups, self._keep_began = groups, keep_began
        self._copies: dict[str, Copy] = {}

    def begin(self, parts: Mapping[str, str]) -> None:
        """Make copies, but for clients that go on with theirs."""
        self._copies = self._copies if self._keep_began else {}
        began: dict[str, list[Tensor]] = {}
        for client, part in parts.items():
            if client not in self._copies:
                group = self.groups[part]
                if self._keep_began and part not in began:
                    began[part] = [parameter.detach().clone() for parameter in group.parameters()]
                self._copies[client] = Copy(part, group.copy(), began.get(part, []))

    def get(self, client: str) -> Trainables | None:
        """The copy of a client, if it has one."""
        return self._copies[client].trained if client in self._copies else None

    def all(self) -> list[Trainables]:
        """Every copy."""
        return [each.trained for each in self._copies.values()]

    def merge(self, clients: Collection[str], factors: Mapping[str, float], going_on: Collection[str]) -> None:
        """Average the copies of clients within each group, weighted by the labels that they were trained on.

        With a late client among them the group moves by the mean of changes.

        Args:
            factors: of the changes of clients that began before the group was merged last.
            going_on: clients that keep their copies; all others are dropped.
        """
        for part in dict.fromkeys(each.part for each in self._copies.values()):
            mine = {c: each for c in clients if (each := self._copies[c]).part == part and each.trained.labels}
            if factors.keys() & mine.keys():
                moved = [(each.trained, each.began, factors.get(c, 1.0)) for c, each in mine.items()]
                self.groups[part].take_changes(moved)
            else:
                self.groups[part].take_mean([each.trained for each in mine.values()])
        self._copies = {client: each for client, each in self._copies.items() if client in going_on}

    def state_dict(self) -> StateDict:
        """``clients``: by client, its group and the labels of each trained tensor; ``<client>/...`` and
        ``began/<client>/...``."""
        state: StateDict = {"clients": {c: [each.part, each.trained.trained_on] for c, each in self._copies.items()}}
        for client, each in self._copies.items():
            state |= with_prefix(f"copy/{client}/", each.trained.state_dict())
            state |= copies(f"began/{client}/", _numbered(each.began))
        return state

    def load_state_dict(self, state: StateDict) -> None:
        """Go on from a state, once the server is restored.

        Raises:
            StateError: other clients, groups, names, shapes or types.
        """
        tensors, values = tensors_and_values(state, ["clients"])
        require_value(isinstance(values["clients"], Mapping), "clients", "is no mapping")
        self._copies = {}
        for client, found in values["clients"].items():
            self._copies[client] = self._checked(found, f"clients.{client}")
            with fields_of(f"copy/{client}"):
                self._copies[client].trained.load_state_dict(pop_prefix(f"copy/{client}/", tensors))
            with fields_of(f"began/{client}"):
                copy_into(_numbered(self._copies[client].began), pop_prefix(f"began/{client}/", tensors))
        copy_into({}, tensors)

    def _checked(self, found: Any, where: str) -> Copy:
        pair = isinstance(found, list) and len(found) == 2 and isinstance(found[1], list)
        require_value(pair and found[0] in self.groups, where, "is no group with its counts of labels")
        copied, n = self.groups[found[0]].copy(), len(self.groups[found[0]].parameters())
        require_value(len(found[1]) == n and all(map(is_count, found[1])), where, f"has no {n} counts of labels")
        copied.trained_on = list(found[1])
        return Copy(found[0], copied, [parameter.detach().clone() for parameter in copied.parameters()])


def _numbered(tensors: list[Tensor]) -> dict[str, Tensor]:
    return {str(number): tensor for number, tensor in enumerate(tensors)}
