"""The versions of groups that clients still train on after a merge, and what their updates are then (FedBuff).

An update that began s merges ago adds f w (what its client has - what it began with), with its weight w and
f = (1 + s) ** -exponent; the heads of clients alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from atlas_cli.aggregation.contract import PARTS, Factors, Late, truncated
from atlas_cli.config.schema.training import AsynchronyConfig
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
        members: every client by name.
        groups: what is merged.
    """

    def __init__(
        self, rule: AsynchronyConfig, members: Mapping[str, Member], groups: Mapping[str, MergedGroup]
    ) -> None:
        self.rule, self._members, self._groups = rule, members, groups
        self._kept: dict[str, dict[int, Version]] = {group: {} for group in groups}

    def staleness(self, client: str) -> int:
        """How often a client's group was merged since the version that the client was delivered."""
        member = self._members[client]
        return self._groups[member.group].version - member.version

    def late(self, client: str) -> Late | None:
        """What an update of a client began from, if its group was merged since; else None."""
        if not (stale := self.staleness(client)):
            return None
        member = self._members[client]
        began = truncated(self._kept[member.group][member.version].adapters, member.ranks)
        return Late(began, float((1 + stale) ** -self.rule.staleness_exponent))

    def late_heads(self, clients: Iterable[str]) -> dict[str, LateHead]:
        """By late client among some, what its head began with."""
        found = {}
        for client in clients:
            if (late := self.late(client)) is not None:
                member = self._members[client]
                found[client] = LateHead(self._kept[member.group][member.version].head, late.factor)
        return found

    def keep(self, group: str, head: Head, merged: Collection[str]) -> None:
        """Keep a group's present version, before a merge of some clients, for the others; drop what nobody needs."""
        now = self._groups[group]
        others = {m.version for name, m in self._members.items() if m.group == group and name not in merged}
        kept = {**self._kept[group], now.version: Version(now.merged, {n: t.clone() for n, t in head.items()})}
        self._kept[group] = {number: version for number, version in kept.items() if number in others}

    def state_dict(self) -> StateDict:
        """The tensors of each version as ``<group>/<number>/...``."""
        state: StateDict = {}
        for group, versions in self._kept.items():
            for number, version in versions.items():
                state |= with_prefix(f"{group}/", copies(f"{number}/", version.tensors))
        return state

    def load_state_dict(self, state: StateDict, heads: Mapping[str, Head]) -> None:
        """Go on from a state, once groups are restored.

        Args:
            heads: of each group as it is now; all versions have the names and shapes of the present one.

        Raises:
            StateError: other names or shapes, or no earlier version.
        """
        found: dict[tuple[str, int], dict[str, Tensor]] = {}
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
