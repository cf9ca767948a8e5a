"""Weights in merges: sums over all clients of a group, computed again only when they change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from atlas_cli.federation.client_state.member import Member, Standing, restand, standings

Ranks = tuple[tuple[str, int], ...]  # by layer


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
        clients: dict[str, list[Member]] = {}
        for client, cluster in clusters.items():
            clients.setdefault(cluster, []).append(self._members[client])
        for cluster, members in clients.items():
            restand(members, cluster=cluster)
        self.forget()

    def weights(self, task_group: str) -> Mapping[str, float]:
        """The weight of a task group's clients in each group that they are merged in."""
        if task_group not in self._weights:
            found = self._weights.setdefault(task_group, {})
            groups = {own: own.group for own in standings(self._members) if own.task_group == task_group}
            for member in self._members.values():  # one by one: sums are rounded, in this order
                if (group := groups.get(member.standing)) is not None:
                    found[group] = found.get(group, 0.0) + member.weight
        return self._weights[task_group]

    def parts(self, task_group: str) -> Mapping[str, str]:
        """The parts of a task group (``Member.part``), and the group that each is merged in."""
        if task_group not in self._parts:
            own = (each for each in standings(self._members) if each.task_group == task_group)
            self._parts[task_group] = {each.part: each.group for each in own}
        return self._parts[task_group]

    def by_rank(self, group: str, changed: Iterable[str]) -> Mapping[str, Mapping[int, float]]:
        """The weight of a merged group's clients, by layer and rank.

        Args:
            changed: clients of the group whose ranks may have changed since the last call.
        """
        if group not in self._by_rank or any(self._counted[c] != self._members[c].ranks for c in changed):
            self._by_rank[group] = self._sums(group)
        return self._by_rank[group]

    def _sums(self, group: str) -> dict[str, dict[int, float]]:
        """As ``by_rank``; what clients of equal ranks weigh is added up once for all layers with the same holders."""
        ranks_of: dict[Standing, Ranks | None] = {}  # None: of another group
        for member in self._members.values():
            if (own := member.standing) not in ranks_of:
                ranks_of[own] = tuple(member.ranks.items()) if own.group == group else None
        alike = {ranks: dict(ranks) for ranks in ranks_of.values() if ranks is not None}
        with_layer: dict[tuple[str, int], list[Ranks]] = {}
        for ranks in alike:
            for layer in ranks:
                with_layer.setdefault(layer, []).append(ranks)
        holders = {layer: tuple(having) for layer, having in with_layer.items()}
        sums = dict.fromkeys(holders.values(), 0.0)
        counts = {ranks: [having for having in sums if ranks in having] for ranks in alike}
        for client, member in self._members.items():  # one by one: sums are rounded, in this order
            if (own_ranks := ranks_of[member.standing]) is not None:
                self._counted[client] = alike[own_ranks]
                for having in counts[own_ranks]:
                    sums[having] += member.weight
        found: dict[str, dict[int, float]] = {}
        for (path, rank), having in holders.items():
            found.setdefault(path, {})[rank] = sums[having]
        return found
