"""Means of factors of unequal rank, padded with zeros to the largest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch

from atlas_cli.aggregation.contract import PARTS, Adapters, Factors, Update
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


def padded_changes(current: Adapters, updates: Sequence[Update], parts: Collection[str]) -> dict[str, Factors]:
    """Add to ``parts`` of each layer the weighted mean of what its holders changed; the other parts stay, bit for bit.

    Rows of A and columns of B count as unchanged by clients whose rank does not reach them.
    """
    merged = dict(current)
    for path, before in current.items():
        if held := shares(path, updates):
            A, B = (precise(part).clone() for part in before)
            for weight, update in held:
                factors, rank = update.adapters[path], update.adapters[path].rank
                A[:rank] += weight * (precise(factors.A) - precise(before.A[:rank]))
                B[:, :rank] += weight * (precise(factors.B) - precise(before.B[:, :rank]))
            moved = Factors(A.to(before.A.dtype), B.to(before.B.dtype))
            merged[path] = Factors(*(moved[i] if part in parts else before[i] for i, part in enumerate(PARTS)))
    return merged
