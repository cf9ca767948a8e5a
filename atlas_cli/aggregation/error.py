"""How far what is delivered is from the exact sum X = sum_k w_k s_k B_k A_k, without a dense matrix.

For each layer and in total, relative to norm(X): D_k is what client k is delivered, M what the method would deliver if
no rank were cut. ``cross_term`` is norm(M - X), what the rule itself loses (for averages of factors, the cross terms);
``truncation`` is the root mean square of norm(D_k - M) over clients, what cutting ranks loses; ``total`` that of
norm(D_k - X). With ``aggregation.normalise: fednova`` clients count in X by what they changed per step
(``MergeOptimizer.at_equal_steps``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from atlas_cli.aggregation.contract import Adapters, BaseMethod, Factors, Merge, Update
from atlas_cli.aggregation.low_rank import in_one_basis, precise, stack


@dataclass(frozen=True)
class Error:
    """Relative errors of one layer, or of all layers together."""

    total: float
    truncation: float
    cross_term: float


@dataclass(frozen=True)
class ErrorLedger:
    """Errors of one merge: over all layers (None where X is zero), and by layer."""

    overall: Error | None
    layers: Mapping[str, Error]


def shares(path: str, updates: Sequence[Update]) -> list[tuple[float, Update]]:
    """The holders of a layer with weights that sum to 1; empty if nobody holds it."""
    held = [u for u in updates if path in u.adapters]
    total = sum(u.weight for u in held)
    return [(u.weight / total, u) for u in held] if total > 0 else []


def exact_sum(path: str, updates: Sequence[Update]) -> Factors | None:
    """X of one layer as stacked factors, over the clients that hold the layer; None if nobody does."""
    held = shares(path, updates)
    return stack([(w, u.adapters[path]) for w, u in held]) if held else None


def exact_change(path: str, updates: Sequence[Update], before: Factors) -> list[tuple[float, Factors]]:
    """sum_k w_k (dW_k after - dW_k before) of one layer as weighted products; empty if nobody holds the layer.

    What a client had before is ``before`` at its rank, or what its update says that it began from.
    """
    held = shares(path, updates)
    parts = [(w, u.adapters[path]) for w, u in held if u.late is None]
    for weight, update in held:
        if update.late is not None:
            parts += [(weight, each) for each in _moved(update.late.began[path], update.adapters[path])]
    if all(u.late is not None for _, u in held) or not before.B.any():
        return parts
    return [*parts, (-1.0, Factors(before.A, precise(before.B) * weight_by_column(path, held, before)))]


def _moved(began: Factors, now: Factors) -> list[Factors]:
    """B' A' - B A as (B' - B) A' + B (A' - A): products as small as the change, so that a codec loses of that alone."""
    parts = [Factors(now.A, precise(now.B) - precise(began.B)), Factors(precise(now.A) - precise(began.A), began.B)]
    return [part for part in parts if part.B.any()]


def changed(path: str, held: Sequence[tuple[float, Update]], before: Factors) -> list[tuple[float, Factors]]:
    """``before`` + sum_k w_k f_k (dW_k after - dW_k as its client began), over at least one holder, as products.

    f_k is 1 but for late updates, whose clients did not begin from ``before``.
    """
    parts = [(w, u.adapters[path]) for w, u in held if u.late is None]
    for weight, update in held:
        if update.late is not None:
            weight *= update.late.factor
            parts += [(weight, update.adapters[path]), (-weight, update.late.began[path])]
    return [*parts, (1.0, undelivered(path, held, before))]


def undelivered(path: str, held: Sequence[tuple[float, Update]], before: Factors) -> Factors:
    """``before`` minus sum_k w_k dW_k before, over at least one holder: the part that the mean client did not get."""
    left = 1 - weight_by_column(path, held, before)
    given = [0 if update.late is not None else update.adapters[path].rank for _, update in held]
    first = min(given)  # all were given what comes before
    return Factors(before.A[first:], precise(before.B[:, first:]) * left[first:])


def weight_by_column(path: str, held: Sequence[tuple[float, Update]], before: Factors) -> Tensor:
    """For each column j of the group's B, the total weight (R,) of the clients with rank above j.

    Before its local steps client k had the first r_k rows and columns of ``before``, so the weighted sum of the
    clients'
    adapters is one product: ``before`` with its columns weighted by this. Late updates had nothing of ``before``.
    """
    weights = precise(before.B).new_zeros(before.rank)
    for weight, update in held:
        if update.late is None:
            weights[: update.adapters[path].rank] += weight
    return weights


def error_ledger(
    exact: Adapters, target: Adapters, delivered: Mapping[str, Sequence[tuple[float, Factors]]]
) -> ErrorLedger:
    """Compare deliveries with the exact sum.

    Args:
        exact: X by layer; the other arguments may have more layers.
        target: M by layer.
        delivered: by layer, the adapters that its holders receive, each with the weight of the clients that receive it.
    """
    layers: dict[str, Error] = {}
    sums = [0.0, 0.0, 0.0, 0.0]
    for path, x in exact.items():
        X, M, *D = in_one_basis([x, target[path], *(d for _, d in delivered[path])])
        size, cross = _squared(X), _squared(M - X)
        total = sum(weight for weight, _ in delivered[path])
        shared = [(weight / total, d) for (weight, _), d in zip(delivered[path], D, strict=True)]
        far = sum(share * _squared(d - X) for share, d in shared)
        cut = sum(share * _squared(d - M) for share, d in shared)
        sums = [a + b for a, b in zip(sums, (size, far, cut, cross), strict=True)]
        if size > 0:
            layers[path] = _relative(size, far, cut, cross)
    return ErrorLedger(_relative(*sums) if sums[0] > 0 else None, layers)


def _squared(matrix: Tensor) -> float:
    return float(matrix.square().sum())


def _relative(size: float, far: float, cut: float, cross: float) -> Error:
    return Error((far / size) ** 0.5, (cut / size) ** 0.5, (cross / size) ** 0.5)


def delivery_errors(
    method: BaseMethod, merge: Merge, weights: Mapping[str, Mapping[int, float]], updates: Sequence[Update]
) -> ErrorLedger:
    """Weighted errors against X of the adapters delivered to all clients of the group, whether they took part or not.

    Args:
        weights: sums over the group's clients, by layer and rank; clients of equal rank get the same adapter.
    """
    sent = [replace(update, adapters=worths(method, update.adapters)) for update in updates]
    found = {path: exact_sum(path, sent) for path in merge.adapters}
    exact = {path: x for path, x in found.items() if x is not None}
    target = worths(method, merge.target or merge.adapters)
    if method.SELECTS:  # every client has all components
        return error_ledger(exact, target, {path: [(1.0, target[path])] for path in weights})
    delivered = {
        path: [(w, worths(method, method.deliver(merge.adapters, {}, {path: r}))[path]) for r, w in by_rank.items()]
        for path, by_rank in weights.items()
    }
    return error_ledger(exact, target, delivered)


def worths(method: BaseMethod, adapters: Adapters) -> dict[str, Factors]:
    """Factors whose products stand for dW, whatever the form of adapters."""
    form = method.form()
    return {path: Factors(*form.worth(*factors)) for path, factors in adapters.items()}


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
