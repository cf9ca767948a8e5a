"""Who is merged with whom, and what they weigh: sums over all clients, which are taken again only when they change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from atlas_cli.federation.client_state.member import Member


class GroupWeights:
    """Sums over the clients of task groups and of merged groups (clusters, where there are any).

    Args:
        members: every client by name; their weights stay, and their clusters are changed by ``assign`` alone.
    """

    def __init__(self, members: Mapping[str, Member]) -> None:
        self._members = members
        self.forget()

    def forget(self) -> None:
        """Ranks may be others for any client: take all sums anew."""
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
        """What the clients of a task group weigh in each group that they are merged in."""
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
        """What the clients of a merged group weigh, by layer and rank.

        Args:
            changed: clients of the group whose ranks may be others than when this was last asked for.
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
