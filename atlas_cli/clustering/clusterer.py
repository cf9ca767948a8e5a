"""Clusters of fingerprints: centred, cosine distance, average linkage, the number of clusters by silhouette.

scikit-learn, two seconds of imports, is loaded by the functions that need it: most runs find no clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atlas_cli.errors import ConfigError
from atlas_cli.seeding import numpy_generator

Array = NDArray[np.float64]
SHUFFLES = 200


@dataclass(frozen=True)
class Clusters:
    """An assignment of clients to clusters.

    Attributes:
        assignment: cluster number by client; numbers follow the first client of each.
        silhouette_by_k: the silhouette of every k that was tried.
        similarity: cosines of the centred fingerprints (clients, clients), in the order of ``assignment``.
    """

    assignment: Mapping[str, int]
    silhouette_by_k: Mapping[int, float]
    similarity: Array
    seed: int = 0

    @property
    def k(self) -> int:
        """The number of clusters."""
        return len(set(self.assignment.values()))

    def compare(self, declared: Mapping[str, str]) -> dict[str, float]:
        """Agreement with declared groups (``agreement``)."""
        return agreement(self.assignment, declared, self.seed)


def agreement(assignment: Mapping[str, int], declared: Mapping[str, str], seed: int = 0) -> dict[str, float]:
    """``ari`` and ``nmi`` of an assignment with declared groups, 1 where they are the same partition.

    ``shuffled_ari`` and ``shuffled_nmi`` are the 95th percentiles of the same over seeded shuffles of the
    assignment: what chance reaches.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    found = [assignment[client] for client in declared]
    wanted, draw = list(declared.values()), numpy_generator(seed, "shuffled clusters")
    shuffled = [draw.permutation(found) for _ in range(SHUFFLES)]
    scores = {"ari": adjusted_rand_score, "nmi": normalized_mutual_info_score}
    result = {name: float(score(wanted, found)) for name, score in scores.items()}
    for name, score in scores.items():
        result[f"shuffled_{name}"] = float(np.quantile([score(wanted, each) for each in shuffled], 0.95))
    return result


class TaskClusterer:
    """Finds which clients share a task.

    Args:
        k: number of clusters; "auto": the one with the best silhouette.
        k_max: the largest that "auto" tries; default: one less than there are clients, at most 20.
        min_silhouette: below it, "auto" says that all clients are one cluster.

    Example:
        >>> TaskClusterer().cluster([[0.9, 0.1], [1.0, 0.0], [0.0, 1.0], [0.1, 0.9]]).assignment
        {'0': 0, '1': 0, '2': 1, '3': 1}
    """

    def __init__(
        self,
        k: int | Literal["auto"] = "auto",
        k_max: int | None = None,
        min_silhouette: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.k, self.k_max, self.min_silhouette, self.seed = k, k_max, min_silhouette, seed

    def check_count(self, clients: int) -> None:
        """Refuse a number of clusters that so many clients cannot make.

        Raises:
            ConfigError: more clusters than clients.
        """
        if isinstance(self.k, int) and not 1 <= self.k <= clients:
            raise ConfigError(f"{self.k} clusters cannot be made of {clients} clients; give --k 1 to {clients}")

    def cluster(self, fingerprints: Mapping[str, Tensor] | Sequence[Sequence[float]] | Array) -> Clusters:
        """Cluster fingerprints by client, or a matrix with a row a client (then named "0", "1", ...).

        Raises:
            ConfigError: more clusters than clients, or a fingerprint that is not finite or not of the others' length.
        """
        from sklearn.metrics import silhouette_score

        named = (
            {name: torch.as_tensor(f).double().numpy() for name, f in fingerprints.items()}
            if isinstance(fingerprints, Mapping)
            else {str(i): np.asarray(row, dtype=np.float64) for i, row in enumerate(fingerprints)}
        )
        _check(named)
        self.check_count(len(named))
        rows = np.stack(list(named.values()))
        similarity = _cosines(rows - rows.mean(0))
        distance = np.clip(1 - similarity, 0, 2)
        np.fill_diagonal(distance, 0)
        n, silhouettes = len(named), {}
        largest = self.k_max or min(20, n - 1)
        tried = range(2, min(largest, n - 1) + 1) if self.k == "auto" else [self.k]
        labels = {k: _average_linkage(distance, k) for k in tried}
        for k, each in labels.items():
            if 2 <= k <= n - 1:  # defined between these only
                silhouettes[k] = float(silhouette_score(distance, each, metric="precomputed"))
        best = max(silhouettes, key=lambda k: silhouettes[k]) if silhouettes else 1
        if self.k == "auto":
            fits = bool(silhouettes) and silhouettes[best] >= self.min_silhouette
            chosen = labels[best] if fits else np.zeros(n, dtype=int)
        else:
            chosen = labels[self.k]
        numbers = {old: new for new, old in enumerate(dict.fromkeys(chosen.tolist()))}
        assignment = {name: numbers[label] for name, label in zip(named, chosen.tolist(), strict=True)}
        return Clusters(assignment, silhouettes, similarity, self.seed)


def _check(named: Mapping[str, Array]) -> None:
    if not named:
        raise ConfigError("there are no fingerprints to cluster")
    length = len(next(iter(named.values())))
    for name, row in named.items():
        if row.shape != (length,) or not np.isfinite(row).all():
            raise ConfigError(f"the fingerprint of client {name} is not {length} finite numbers")


def _cosines(rows: Array) -> Array:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 1e-12 * max(1.0, float(norms.max())))
    similarity: Array = unit @ unit.T
    np.fill_diagonal(similarity, 1.0)
    return similarity


def _average_linkage(distance: Array, k: int) -> NDArray[np.int64]:
    if len(distance) == 1:
        return np.zeros(1, dtype=np.int64)
    from sklearn.cluster import AgglomerativeClustering

    model = AgglomerativeClustering(n_clusters=k, metric="precomputed", linkage="average")
    labels: NDArray[np.int64] = model.fit_predict(distance)
    return labels
