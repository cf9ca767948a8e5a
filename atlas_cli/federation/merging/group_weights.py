"""Weights in merges: sums over all clients of a group, computed again only when they change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from atlas_cli.federation.client_state.member import Member


class GroupWeights:
    """Weight sums over the clients of task groups and of merged groups (clusters, where there are any).

    Args:
        members: every client by name; their weights are constant, and only ``assign`` changes their clusters.
    """

    def __init__(self, members: Mapping[str, Member]) -> None:
        self._members = members
        self.forget()

    def forget(self) -> None:
        """Any client's ranks may have changed: compute all sums again."""
        self._weights: dict[str, dict[str, float]] = {}
        self._parts: dict[str, dict[str, str]] = {}
        self._by_rank: dict[str, dict[str, dict[int, float]]] = {}
        self._counted: dict[str, dict[str, int]] = {}  # ranks by client, as they are in _by_rank

    def assign(self, clusters: Mapping[str, str]) -> None:
        """Put clients into clusters, by name."""
        for client, cluster in clusters.items():
            self._members[client].cluster = cluster
        self.forget()

    def weights(self, task_group: str) -> Mapping[str, float]:
        """The weight of a task group's clients in each group that they are merged in."""
        if task_group not in self._weights:
            found = self._weights.setdefault(task_group, {})
            for member in self._members.values():
                if member.task_group == task_group:
                    found[member.group] = found.get(member.group, 0.0) + member.weight
        return self._weights[task_group]

    def parts(self, task_group: str) -> Mapping[str, str]:
        """The parts of a task group (``Member.part``), and the group that each is merged in."""
        if task_group not in self._parts:
            members = (member for member in self._members.values() if member.task_group == task_group)
            self._parts[task_group] = {member.part: member.group for member in members}
        return self._parts[task_group]

    def by_rank(self, group: str, changed: Iterable[str]) -> Mapping[str, Mapping[int, float]]:
        """The weight of a merged group's clients, by layer and rank.

        Args:
            changed: clients of the group whose ranks may have changed since the last call.
        """
        if group not in self._by_rank or any(self._counted[c] != self._members[c].ranks for c in changed):
            weights: dict[str, dict[int, float]] = {}
            alike: dict[tuple[tuple[str, int], ...], dict[str, int]] = {}
            for client, member in self._members.items():
                if member.group != group:
                    continue
                ranks = member.ranks
                self._counted[client] = alike.setdefault(tuple(ranks.items()), ranks)
                for path, rank in ranks.items():
                    of_layer = weights.setdefault(path, {})
                    of_layer[rank] = of_layer.get(rank, 0.0) + member.weight
            self._by_rank[group] = weights
        return self._by_rank[group]
