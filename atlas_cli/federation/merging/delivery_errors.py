"""Delivery errors of one merge: over all clients of a group, at their ranks and by their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atlas_cli.aggregation.contract import Adapters, BaseMethod, Merge, Update
from atlas_cli.aggregation.error import ErrorLedger, error_ledger, exact_change, exact_sum
from atlas_cli.aggregation.low_rank import stack


def delivery_errors(
    method: BaseMethod, merge: Merge, weights: Mapping[str, Mapping[int, float]], updates: Sequence[Update]
) -> ErrorLedger:
    """Weighted errors against X of the adapters delivered to all clients of the group, whether they took part or not.

    Args:
        weights: sums over the group's clients, by layer and rank; clients of equal rank get the same adapter.
    """
    found = {path: exact_sum(path, updates) for path in merge.adapters}
    exact = {path: x for path, x in found.items() if x is not None}
    delivered = {
        path: [(w, method.deliver(merge.adapters, {}, {path: rank})[path]) for rank, w in by_rank.items()]
        for path, by_rank in weights.items()
    }
    return error_ledger(exact, merge.target or merge.adapters, delivered)


def base_errors(updates: Sequence[Update], before: Adapters, change: Adapters, after: Adapters) -> ErrorLedger:
    """The same where all clients get the changed base T, with X = T before + sum_k w_k (dW_k after - dW_k before).

    Args:
        before: the group's adapter before the merge.
        change, after: T before and after the merge.
    """
    exact = {}
    for path, factors in before.items():
        if parts := exact_change(path, updates, factors):
            exact[path] = stack([*parts, *([(1.0, change[path])] if path in change else [])])
    return error_ledger(exact, after, {path: [(1.0, after[path])] for path in exact})
