"""Clustering in a run: finds whose adapters are merged, before the first round and, if asked for, later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from atlas_cli.clustering.clusterer import TaskClusterer, agreement
from atlas_cli.clustering.fingerprints import fingerprint_round
from atlas_cli.clustering.regroup import regroup
from atlas_cli.config.schema.clustering import ClusteringConfig
from atlas_cli.federation.federation import Federation
from atlas_cli.seeding import numpy_generator
from atlas_cli.wire.ledger import Ledger


@dataclass(frozen=True)
class ClusteringResult:
    """The result of one clustering in a run.

    Attributes:
        round: the round that it precedes; 0 before training.
        by: as in ``ClusteringConfig``.
        assignment: cluster by client.
        moved: clients whose cluster changed, once training has begun.
        silhouette_by_k: the silhouette of the fingerprints, by number of clusters.
        agreement: with the task groups (``Clusters.compare``); None where there is only one group.
    """

    round: int
    by: str
    assignment: Mapping[str, str]
    moved: list[str]
    silhouette_by_k: Mapping[str, float]
    agreement: Mapping[str, float] | None

    def record(self) -> dict[str, object]:
        """A line of clusters.jsonl."""
        return asdict(self)

    def sentence(self) -> str:
        """For the screen."""
        sizes = sorted(Counter(self.assignment.values()).values(), reverse=True)
        text = f"clusters by {self.by}: {len(sizes)}, of {', '.join(map(str, sizes))} clients"
        if self.agreement is not None:
            found, chance = self.agreement["ari"], self.agreement["shuffled_ari"]
            text += f"; agreement with the task groups ARI {found:.2f} (shuffled: up to {chance:.2f})"
        return text + (f"; {len(self.moved)} moved" if self.round else "")


def cluster_clients(federation: Federation, number: int, ledger: Ledger) -> ClusteringResult | None:
    """Cluster the clients before round ``number`` and regroup them, where the config asks for it; None elsewhere.

    Later clusterings take fingerprints on further batches, and use the mean of all that were taken.
    """
    rule = federation.config.clustering
    if rule is None or federation.config.mode in ("local-only", "centralized"):
        return None
    if number and (rule.every is None or number == 1 or (number - 1) % rule.every):
        return None
    turn = (number - 1) // rule.every if rule.every is not None and number else 0
    declared = {client: federation.group_of(client) for client in federation.clients}
    found, silhouettes = _found(federation, rule, declared, turn, ledger)
    members = federation.aggregator.members
    if rule.by == "oracle":
        assignment, moved = declared, []
    else:
        assignment = name_clusters(found, {client: member.cluster for client, member in members.items()})
        moved = regroup(federation, assignment)
    several = len(set(declared.values())) > 1
    agreed = agreement(found, declared, federation.config.seed) if several else None
    by_k = {str(k): value for k, value in silhouettes.items()}
    return ClusteringResult(number, rule.by, assignment, moved if number else [], by_k, agreed)


def clusterer_of(rule: ClusteringConfig, seed: int) -> TaskClusterer:
    """The clusterer of a config."""
    return TaskClusterer(rule.k, min_silhouette=rule.min_silhouette, seed=seed)


def name_clusters(found: Mapping[str, int], before: Mapping[str, str | None]) -> dict[str, str]:
    """Names of numbered clusters: each takes the name of the former cluster of most of its clients, each name once."""
    overlaps = Counter((number, before[client]) for client, number in found.items())
    names: dict[int, str] = {}
    for (number, name), _ in sorted(overlaps.items(), key=lambda item: (-item[1], item[0][0], str(item[0][1]))):
        if name is not None and number not in names and name not in names.values():
            names[number] = name
    free = (name for i in range(2 * len(found)) if (name := f"cluster-{i}") not in names.values())
    for number in sorted(set(found.values()) - names.keys()):
        names[number] = next(free)
    return {client: names[number] for client, number in found.items()}


def _found(
    federation: Federation, rule: ClusteringConfig, declared: Mapping[str, str], turn: int, ledger: Ledger
) -> tuple[Mapping[str, int], Mapping[int, float]]:
    """Cluster number by client, and of fingerprints the silhouette by number of clusters."""
    seed = federation.config.seed
    if rule.by == "fingerprints":
        taken = fingerprint_round(federation, ledger, rule.batches, rule.size, turn)
        sums = federation.fingerprints
        federation.fingerprints = {client: sums.get(client, 0) + each for client, each in taken.items()}
        means = {client: total / (turn + 1) for client, total in federation.fingerprints.items()}
        clusters = clusterer_of(rule, seed).cluster(means)
        return clusters.assignment, clusters.silhouette_by_k
    groups = list(dict.fromkeys(declared.values()))
    numbers = [groups.index(group) for group in declared.values()]
    if rule.by == "single":
        numbers = [0] * len(numbers)
    elif rule.by == "random":
        if rule.k != "auto":
            numbers = [i % rule.k for i in range(len(numbers))]
        numbers = [int(n) for n in numpy_generator(seed, "random clusters").permutation(numbers)]
    return dict(zip(declared, numbers, strict=True)), {}
