"""Means of factors of unequal rank, padded with zeros to the largest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from atlas_cli.aggregation.contract import Adapters, Factors, Update
from atlas_cli.aggregation.error import shares
from atlas_cli.aggregation.low_rank import precise


def padded_means(
    current: Adapters, updates: Sequence[Update], importance: Callable[[Factors], float] | None = None
) -> dict[str, Factors]:
    """Average A and B separately for each layer, over the clients that hold it.

    Rows of A that nobody sent keep the values of ``current``, with B = 0; layers that nobody sent stay as they are.

    Args:
        importance: computes the weight of a client's layer from its factors; default: the client's weight.
    """
    merged = dict(current)
    for path, before in current.items():
        held = [
            (w if importance is None else importance(u.adapters[path]), u.adapters[path])
            for w, u in shares(path, updates)
        ]
        total = sum(weight for weight, _ in held)
        if total <= 0:
            continue
        A, B = precise(before.A).clone(), torch.zeros_like(precise(before.B))
        A[: max(factors.rank for _, factors in held)] = 0
        for weight, factors in held:
            A[: factors.rank] += weight / total * factors.A
            B[:, : factors.rank] += weight / total * factors.B
        merged[path] = Factors(A.to(before.A.dtype), B.to(before.B.dtype))
    return merged
