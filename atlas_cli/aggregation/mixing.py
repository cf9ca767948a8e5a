"""Mixing the merged adapters of task groups: each group takes a share of the adapters that resemble its own.

    dW'_g = sum_h M_gh dW_h

``softmax``: M = (1 - lambda) I + lambda P, rows of P sum to 1 and P_gh is proportional to n_h exp(cos_gh / tau).
``laplacian`` (the step of MIRA, Elbakary et al., 2410.15524): M = I - lambda L / max degree, with L the Laplacian of
the graph whose edges are max(cos_gh, 0): a step towards groups that point the same way. cos_gh is taken over all layers
that both groups adapt, from inner products of factors. lambda = 0, or one group, is the identity. A layer is mixed over
the groups that adapt it, rows of M renormalised.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from atlas_cli.aggregation.contract import Adapters, Factors
from atlas_cli.aggregation.low_rank import inner, redistribute, weighted_sum


def similarity(groups: Mapping[str, Adapters]) -> Tensor:
    """Cosines of the groups' updates (G, G); 0 where one is zero or no layer is shared, 1 on the diagonal."""
    names = list(groups)
    cosines = torch.eye(len(names), dtype=torch.float64)
    for i, first in enumerate(names):
        for j, second in enumerate(names[:i]):
            shared = [path for path in groups[first] if path in groups[second]]
            dot, a, b = (
                sum(inner(groups[x][path], groups[y][path]) for path in shared)
                for x, y in ((first, second), (first, first), (second, second))
            )
            if a > 0 and b > 0:
                cosines[i, j] = cosines[j, i] = dot / (a * b) ** 0.5
    return cosines


def softmax_matrix(cosines: Tensor, sizes: Tensor, strength: float, temperature: float) -> Tensor:
    """M = (1 - lambda) I + lambda P for groups of ``sizes`` (G,)."""
    weights = sizes * torch.exp((cosines - cosines.max()) / temperature)
    return (1 - strength) * torch.eye(len(sizes), dtype=torch.float64) + strength * weights / weights.sum(
        1, keepdim=True
    )


def laplacian_matrix(cosines: Tensor, strength: float) -> Tensor:
    """M = I - lambda L / max degree; rows sum to 1, entries are within 0 and 1."""
    edges = cosines.clamp(min=0).fill_diagonal_(0)
    degrees = edges.sum(1)
    identity = torch.eye(len(cosines), dtype=torch.float64)
    return identity if degrees.max() == 0 else identity - strength * (torch.diag(degrees) - edges) / degrees.max()


def mix(groups: Mapping[str, Adapters], matrix: Tensor) -> dict[str, dict[str, Factors]]:
    """The adapter of every group after mixing, in its former shapes; groups are in the order of ``matrix``'s rows."""
    names = list(groups)
    mixed: dict[str, dict[str, Factors]] = {}
    for i, name in enumerate(names):
        mixed[name] = dict(groups[name])
        for path, own in groups[name].items():
            shares = {j: float(matrix[i, j]) for j, other in enumerate(names) if path in groups[other]}
            total = sum(shares.values())
            parts = [(w / total, groups[names[j]][path]) for j, w in shares.items() if w != 0]
            if parts != [(1.0, own)]:
                mixed[name][path] = redistribute(weighted_sum(parts), own)
    return mixed
