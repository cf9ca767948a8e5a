"""How far a delivered update is from the exact sum X = sum_k w_k s_k B_k A_k, without a dense matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atlas_cli.aggregation._base import Adapters, Factors, Update


def squared_norm(factors: Factors) -> float:
    """Squared Frobenius norm of B @ A, in float64.

    By B = Q_B R_B and A^T = Q_A R_A it is that of R_B R_A^T. The shorter tr((B^T B)(A A^T)) squares before terms
    cancel, so that an exact merge would be reported as wrong by 1e-8.
    """
    R_A = torch.linalg.qr(factors.A.double().T, mode="r").R
    R_B = torch.linalg.qr(factors.B.double(), mode="r").R
    return float((R_B @ R_A.T).square().sum())


def exact_sum(path: str, updates: Sequence[Update]) -> Factors | None:
    """X of one layer as stacked factors, over the clients that hold it; None when nobody does."""
    held = [(u.weight, u.adapters[path]) for u in updates if path in u.adapters]
    total = sum(weight for weight, _ in held)
    if not held or total <= 0:
        return None
    return Factors(_stack([f.A for _, f in held], 0), _stack([w / total * f.B.double() for w, f in held], 1))


def relative_error(merged: Adapters, updates: Sequence[Update]) -> float | None:
    """norm(dW_merged - X) / norm(X) over all layers; None where X is zero or nobody sent anything."""
    error = size = 0.0
    for path, factors in merged.items():
        exact = exact_sum(path, updates)
        if exact is None:
            continue
        size += squared_norm(exact)
        error += squared_norm(Factors(_stack([factors.A, exact.A], 0), _stack([factors.B, -exact.B], 1)))
    return (error / size) ** 0.5 if size > 0 else None


def _stack(parts: Sequence[Tensor], dim: int) -> Tensor:
    return torch.cat([p.double() for p in parts], dim)
