"""The versions of groups that clients still train on after a merge, and what their updates are then (FedBuff).

An update that began s merges ago adds f w (what its client has - what it began with), with its weight w and
f = (1 + s) ** -exponent; the heads of clients alike.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from atlas_cli.aggregation.contract import PARTS, Adapters, BaseMethod, Factors, Late, Update, truncated
from atlas_cli.config.schema.training import AsynchronyConfig
from atlas_cli.double import double
from atlas_cli.federation.client_state.member import Member
from atlas_cli.federation.merging.heads import Head, LateHead
from atlas_cli.federation.merging.merged_group import MergedGroup
from atlas_cli.storage.state_dict import StateDict, copies, require_tensor, with_prefix


class Version(NamedTuple):
    """A group's merged adapter and its head as they were."""

    adapters: Mapping[str, Factors]
    head: Head

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All of it by name."""
        named = {f"{path}/{part}": t for path, f in self.adapters.items() for part, t in zip(PARTS, f, strict=True)}
        return {**named, **self.head}


class EarlierVersions:
    """Versions by group and number; each costs what the group's adapter does, and is held once for all its clients.

    Args:
        rule: how late updates count.
        method: how they are merged.
        members: every client by name.
        groups: what is merged.
        head_of: the present head of a client's group, as in its messages.
        under_way: the clients that may need versions.
    """

    def __init__(
        self,
        rule: AsynchronyConfig,
        method: BaseMethod,
        members: Mapping[str, Member],
        groups: Mapping[str, MergedGroup],
        head_of: Callable[[str], Head],
        under_way: Collection[str],
    ) -> None:
        self.rule, self._takes, self._members, self._groups = rule, method.TAKES_LATE, members, groups
        self._head_of, self._under_way = head_of, under_way
        self._kept: dict[str, dict[int, Version]] = {group: {} for group in groups}

    def staleness(self, client: str) -> int:
        """How often a client's group was merged since the version that the client was delivered."""
        member = self._members[client]
        return self._groups[member.group].version - member.version

    def began(self, client: str) -> Version:
        """The version that a client was delivered."""
        member = self._members[client]
        if self.staleness(client):
            return self._kept[member.group][member.version]
        return Version(self._groups[member.group].merged, self._head_of(client))

    def late(self, client: str) -> Late | None:
        """What an update of a client began from, if its group was merged since; else None."""
        if not (stale := self.staleness(client)):
            return None
        began = truncated(self.began(client).adapters, self._members[client].ranks)
        return Late(began, float((1 + stale) ** -self.rule.staleness_exponent))

    def seen(self, update: Update, held: Adapters) -> Update:
        """An update as the method takes one that is late (``BaseMethod.TAKES_LATE``).

        Args:
            held: the group's present adapter at the client's ranks.
        """
        if (late := self.late(update.client)) is None:
            return update
        if self._takes == "products":
            return replace(update, late=late)
        adapters = {
            path: Factors(
                *(_moved(*each, late.factor) for each in zip(held[path], factors, late.began[path], strict=True))
            )
            for path, factors in update.adapters.items()
        }
        return replace(update, adapters=adapters)

    def late_heads(self, clients: Iterable[str]) -> dict[str, LateHead]:
        """By late client among some, what its head began with."""
        late = {client: self.late(client) for client in clients}
        return {c: LateHead(self.began(c).head, each.factor) for c, each in late.items() if each is not None}

    def keep(self, group: str, head: Head) -> None:
        """Keep a group's present version, before a merge, for clients under way; drop what nobody needs."""
        now, members = self._groups[group], self._members
        needed = {members[client].version for client in self._under_way if members[client].group == group}
        kept = {**self._kept[group], now.version: Version(now.merged, {n: t.clone() for n, t in head.items()})}
        self._kept[group] = {number: version for number, version in kept.items() if number in needed}

    def state_dict(self) -> StateDict:
        """The tensors of each version as ``<group>/<number>/...``."""
        state: StateDict = {}
        for group, versions in self._kept.items():
            for number, version in versions.items():
                state |= with_prefix(f"{group}/", copies(f"{number}/", version.tensors))
        return state

    def load_state_dict(self, state: StateDict) -> None:
        """Go on from a state, once groups are restored; all versions have the names and shapes of the present one.

        Raises:
            StateError: other names or shapes, or no earlier version.
        """
        found: dict[tuple[str, int], dict[str, Tensor]] = {}
        heads = {member.group: self._head_of(client) for client, member in self._members.items()}
        likes = {name: Version(group.merged, heads[name]) for name, group in self._groups.items()}
        for name, value in state.items():
            group, _, rest = name.partition("/")
            number, _, own = rest.partition("/")
            known = group in likes and number.isdecimal() and int(number) < self._groups[group].version
            require_tensor(known, name, "is of no earlier version")
            like = likes[group].tensors.get(own)
            fits = like is not None and (like.shape, like.dtype) == (value.shape, value.dtype)
            require_tensor(fits, name, f"has shape {tuple(value.shape)} {value.dtype}")
            found.setdefault((group, int(number)), {})[own] = value.to(self._groups[group].device, copy=True)
        self._kept = {group: {} for group in self._groups}
        for (group, earlier), tensors in found.items():
            like_it = likes[group]
            require_tensor(tensors.keys() == like_it.tensors.keys(), f"{group}/{earlier}", "lacks a tensor")
            adapters = {path: Factors(*(tensors[f"{path}/{part}"] for part in PARTS)) for path in like_it.adapters}
            self._kept[group][earlier] = Version(adapters, {name: tensors[name] for name in like_it.head})


def _moved(present: Tensor, after: Tensor, began: Tensor, factor: float) -> Tensor:
    """``present`` + factor (after - began)."""
    return (double(present) + factor * (double(after) - double(began))).to(present)
