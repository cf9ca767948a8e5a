"""Arithmetic on sums of low-rank products, without a dense matrix where that is cheaper.

Stack the factors, B = Q_B R_B and A^T = Q_A R_A; then the singular values of B A are those of the small R_B R_A^T. Cost
O((d_in + d_out) R^2 + R^3) and memory O(R (d_in + d_out)), with R the sum of ranks; a dense SVD is cheaper once R is
above min(d_in, d_out) / 2. Sums are taken in float64 (float32 on devices that have no other).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from atlas_cli.aggregation._base import Factors

# rows of a fresh A are uniform within 1 / sqrt(d_in): their norm
FRESH_ROW = 1 / math.sqrt(3)


def exact(tensor: Tensor) -> Tensor:
    """In the precision that sums are taken in."""
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def stack(parts: Iterable[tuple[float, Factors]], dtype: torch.dtype | None = None) -> Factors:
    """The sum of weighted products as one pair: A (R, d_in), B (d_out, R), in ``dtype``; default: that of sums."""
    weighted = list(parts)
    A = torch.cat([exact(f.A) for _, f in weighted])
    B = torch.cat([weight * exact(f.B) for weight, f in weighted], 1)
    return Factors(A, B) if dtype is None else Factors(A.to(dtype), B.to(dtype))


def svd(factors: Factors) -> tuple[Tensor, Tensor, Tensor]:
    """U (d_out, k), singular values (k,) in descending order and V^T (k, d_in) of B @ A.

    Signs are fixed, so that they do not depend on the routine: the largest component of each row of V^T is positive.
    """
    A, B = exact(factors.A), exact(factors.B)
    if factors.rank <= min(A.shape[1], B.shape[0]) / 2:
        Q_A, R_A = torch.linalg.qr(A.T)
        Q_B, R_B = torch.linalg.qr(B)
        U, S, Vh = torch.linalg.svd(R_B @ R_A.T, full_matrices=False)
        U, Vh = Q_B @ U, Vh @ Q_A.T
    else:
        U, S, Vh = torch.linalg.svd(B @ A, full_matrices=False)
    largest = Vh.abs().argmax(1, keepdim=True)
    sign = torch.where(Vh.gather(1, largest) < 0, -1.0, 1.0).to(Vh.dtype)
    return U * sign.T, S, Vh * sign


def redistribute(factors: Factors, current: Factors) -> Factors:
    """The best approximation of B @ A in the shape and dtype of ``current``, its rank R, for training to go on from.

    Component j has A_j = a_j v_j and B_j = sigma_j u_j / a_j with a_j = max(sqrt(sigma_j), 1 / sqrt(3)): a plain square
    root would leave a component with sigma = 0 without a gradient for ever. Where the sum has fewer than R components,
    rows of A stay as they are and B is 0.
    """
    U, S, Vh = svd(factors)
    tiny = S.max() * max(U.shape[0], Vh.shape[1]) * torch.finfo(S.dtype).eps if len(S) else 0.0
    kept = min(current.rank, int((tiny < S).sum()))
    scale = S[:kept].sqrt().clamp(min=FRESH_ROW)
    A, B = current.A.clone(), torch.zeros_like(current.B)
    A[:kept] = (scale[:, None] * Vh[:kept]).to(A.dtype)
    B[:, :kept] = (U[:, :kept] * (S[:kept] / scale)).to(B.dtype)
    return Factors(A, B)


def truncate(factors: Factors, rank: int) -> Factors:
    """The best approximation of at most ``rank``, in the dtype given, split evenly between A and B."""
    U, S, Vh = svd(factors)
    root = S[:rank].sqrt()
    return Factors((root[:, None] * Vh[:rank]).to(factors.A.dtype), (U[:, :rank] * root).to(factors.B.dtype))


def squared_norm(factors: Factors) -> float:
    """Squared Frobenius norm of B @ A.

    By QR, or densely where that is cheaper. The shorter tr((B^T B)(A A^T)) squares before terms cancel, so that an
    exact merge would be reported as wrong by 1e-8.
    """
    A, B = exact(factors.A), exact(factors.B)
    if factors.rank > min(A.shape[1], B.shape[0]) / 2:
        return float((B @ A).square().sum())
    R_A, R_B = torch.linalg.qr(A.T, mode="r").R, torch.linalg.qr(B, mode="r").R
    return float((R_B @ R_A.T).square().sum())


def inner(first: Factors, second: Factors) -> float:
    """<B A, B' A'> = tr((B^T B')(A' A^T)), without either product."""
    return float(((exact(first.B).T @ exact(second.B)) * (exact(first.A) @ exact(second.A).T)).sum())


class LowRankSum:
    """A weighted sum of products that is built up one by one, under a memory cap.

    It is kept as stacked factors while those are smaller than a dense matrix, dense after. Where a cap allows neither,
    the stack is cut to the rank that fits, and what that loses shows in the error ledger as truncation.

    Args:
        memory: bytes for the sum and the work on it; None: no cap.
    """

    def __init__(self, memory: int | None = None) -> None:
        self.memory = memory
        self._parts: list[Factors] = []
        self._dense: Tensor | None = None

    def add(self, weight: float, factors: Factors) -> None:
        """Add weight * B @ A."""
        if self._dense is not None:
            self._dense += weight * exact(factors.B) @ exact(factors.A)
            return
        self._parts.append(Factors(exact(factors.A), weight * exact(factors.B)))
        rank, (d_in, d_out) = sum(f.rank for f in self._parts), (factors.A.shape[1], factors.B.shape[0])
        dense = 3 * 8 * d_in * d_out  # the matrix and its two factors
        stacked = 3 * 8 * rank * (d_in + d_out)
        if rank > min(d_in, d_out) / 2 and (self.memory is None or dense <= self.memory):
            whole = stack([(1.0, f) for f in self._parts])
            self._dense, self._parts = whole.B @ whole.A, []
        elif self.memory is not None and stacked > self.memory and rank > 1:
            room = max(1, self.memory // (2 * 3 * 8 * (d_in + d_out)))
            self._parts = [truncate(stack([(1.0, f) for f in self._parts]), room)]

    def factors(self) -> Factors:
        """The sum as one pair of factors."""
        if self._dense is not None:
            eye = torch.eye(self._dense.shape[1], dtype=self._dense.dtype, device=self._dense.device)
            return Factors(eye, self._dense)
        return stack([(1.0, f) for f in self._parts])


def weighted_sum(parts: Sequence[tuple[float, Factors]], memory: int | None = None) -> Factors:
    """``LowRankSum`` of parts in their order."""
    total = LowRankSum(memory)
    for weight, factors in parts:
        total.add(weight, factors)
    return total.factors()
