"""Arithmetic on sums of low-rank products, without a dense matrix where that is cheaper.

Stack the factors, B = Q_B R_B and A^T = Q_A R_A; then the singular values of B A are those of the small R_B R_A^T. Cost
O((d_in + d_out) R^2 + R^3) and memory O(R (d_in + d_out)), with R the sum of ranks; a dense SVD is cheaper once R is
above min(d_in, d_out) / 2. Sums are taken in float64 (on the CPU for devices that have none).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from atlas_cli.aggregation.contract import Factors
from atlas_cli.double import double
from atlas_cli.errors import ConfigError

# rows of a fresh A are uniform within 1 / sqrt(d_in): their norm
FRESH_ROW = 1 / math.sqrt(3)


def precise(tensor: Tensor) -> Tensor:
    """Convert to the precision in which sums are computed."""
    return double(tensor)


def stack(parts: Iterable[tuple[float, Factors]], dtype: torch.dtype | None = None) -> Factors:
    """The sum of weighted products as one pair: A (R, d_in), B (d_out, R), in ``dtype``; default: that of sums."""
    weighted = list(parts)
    A = torch.cat([precise(f.A) for _, f in weighted])
    B = torch.cat([weight * precise(f.B) for weight, f in weighted], 1)
    return Factors(A, B) if dtype is None else Factors(A.to(dtype), B.to(dtype))


class Svd(NamedTuple):
    """U (d_out, k), singular values S (k,) in descending order, and V^T as Vh (k, d_in)."""

    U: Tensor
    S: Tensor
    Vh: Tensor

    @property
    def factors(self) -> Factors:
        """U S V^T as one pair, A with orthonormal rows."""
        return Factors(self.Vh, self.U * self.S)


def svd(factors: Factors) -> Svd:
    """The SVD of B @ A, by QR of both factors up to rank min(d_in, d_out) / 2, else of the dense product.

    Signs are fixed, so that they do not depend on the routine: the largest component of each row of V^T is positive.
    """
    A, B = precise(factors.A), precise(factors.B)
    if factors.rank > min(A.shape[1], B.shape[0]) / 2:
        return dense_svd(B @ A)
    Q_A, R_A = torch.linalg.qr(A.T)
    Q_B, R_B = torch.linalg.qr(B)
    U, S, Vh = torch.linalg.svd(R_B @ R_A.T, full_matrices=False)
    return _signed(Q_B @ U, S, Vh @ Q_A.T)


def dense_svd(matrix: Tensor) -> Svd:
    """The SVD of a matrix (d_out, d_in), with signs fixed as by ``svd``."""
    return _signed(*torch.linalg.svd(matrix, full_matrices=False))


def _signed(U: Tensor, S: Tensor, Vh: Tensor) -> Svd:
    largest = Vh.abs().argmax(1, keepdim=True)
    sign = torch.where(Vh.gather(1, largest) < 0, -1.0, 1.0).to(Vh.dtype)
    return Svd(U.mul_(sign.T), S, Vh.mul_(sign))


def rotated(factors: Factors) -> Factors:
    """The same B @ A, of the same rank and dtype, with orthonormal rows of A and orthogonal columns of B that descend.

    Rows of A span what they did, also where B has columns of zeros, for which an SVD of the product would make up rows.
    """
    Q, R = torch.linalg.qr(precise(factors.A).T)
    U, S, Vh = torch.linalg.svd(precise(factors.B) @ R.T, full_matrices=False)
    U, S, Vh = _signed(U, S, Vh @ Q.T)
    return Factors(Vh.to(factors.A.dtype), (U * S).to(factors.B.dtype))


def redistribute(whole: Svd, current: Factors) -> Factors:
    """The best approximation of U S V^T in the shape and dtype of ``current``, its rank R, for training to go on from.

    Component j has A_j = a_j v_j and B_j = sigma_j u_j / a_j with a_j = max(sqrt(sigma_j), 1 / sqrt(3)): a plain square
    root would leave a component with sigma = 0 without a gradient for ever. Where the sum has fewer than R components,
    rows of A stay as they are and B is 0.
    """
    U, S, Vh = whole
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
    A, B = precise(factors.A), precise(factors.B)
    if factors.rank > min(A.shape[1], B.shape[0]) / 2:
        return float((B @ A).square().sum())
    R_A, R_B = torch.linalg.qr(A.T, mode="r").R, torch.linalg.qr(B, mode="r").R
    return float((R_B @ R_A.T).square().sum())


def in_one_basis(products: Sequence[Factors]) -> list[Tensor]:
    """Map products to small matrices that keep their norms and those of their sums and differences.

    Two QR factorisations give orthonormal bases for the columns of all B and the rows of all A; dense products where
    that is cheaper.
    """
    A = torch.cat([precise(f.A) for f in products])
    B = torch.cat([precise(f.B) for f in products], 1)
    ranks = [f.rank for f in products]
    if A.shape[0] > min(A.shape[1], B.shape[0]) / 2:
        return [b @ a for b, a in zip(B.split(ranks, 1), A.split(ranks), strict=True)]
    R_A, R_B = torch.linalg.qr(A.T, mode="r").R, torch.linalg.qr(B, mode="r").R
    return [b @ a.T for b, a in zip(R_B.split(ranks, 1), R_A.split(ranks, 1), strict=True)]


def inner(first: Factors, second: Factors) -> float:
    """<B A, B' A'> = tr((B^T B')(A' A^T)), without either product."""
    return float(((precise(first.B).T @ precise(second.B)) * (precise(first.A) @ precise(second.A).T)).sum())


# Copies that the sum and its SVD hold at their peak, measured and rounded up: of the stacked factors (the stack, Q, U
# and V^T, what LAPACK works on) and of the dense matrix.
STACK_COPIES, DENSE_COPIES = 8, 9


def require_room(d_in: int, d_out: int, memory: int | None) -> None:
    """Check that a layer of this size can be merged in ``memory`` bytes; None means no limit.

    Raises:
        ConfigError: a stack of rank 2 takes more.
    """
    least = 2 * STACK_COPIES * 8 * (d_in + d_out)
    if memory is not None and memory < least:
        raise ConfigError(
            f"{memory} bytes are too few to merge a layer of {d_out} x {d_in}; allow at least {least}",
            key="aggregation.server_memory",
        )


class LowRankSum:
    """A weighted sum of products that are added one by one, under a memory cap.

    It is kept as stacked factors up to rank min(d_in, d_out) / 2, as a dense matrix after. Where a cap allows neither,
    the stack is cut to the rank that fits each time that it is full; ``dropped`` bounds what that lost, and the error
    ledger shows it as cross term, since what is delivered comes from the cut sum.

    Args:
        d_in: columns.
        d_out: rows.
        memory: bytes for the sum and its SVD; None: no cap.

    Attributes:
        dropped: bound on the Frobenius norm of what truncation lost.

    Raises:
        ConfigError: the cap is below what a stack of rank 2 takes.
    """

    def __init__(self, d_in: int, d_out: int, memory: int | None = None) -> None:
        self.dropped = 0.0
        self._half = min(d_in, d_out) / 2
        self._shape = (d_out, d_in)
        self._dense: Tensor | None = None
        self._dense_fits = memory is None or DENSE_COPIES * 8 * d_in * d_out <= memory
        self._parts: list[tuple[float, Factors]] = []
        require_room(d_in, d_out, memory)
        self._room = None if memory is None else memory // (STACK_COPIES * 8 * (d_in + d_out))

    @property
    def rank(self) -> int:
        """The rank of the stack."""
        return sum(factors.rank for _, factors in self._parts)

    def add(self, weight: float, factors: Factors) -> None:
        """Add weight * B @ A; products with B = 0 take no memory. Tensors are referenced, not copied."""
        if not factors.B.any():
            factors = Factors(factors.A[:0], factors.B[:, :0])
        if self._dense is None and self.rank + factors.rank > self._half and self._dense_fits:
            self._dense = precise(factors.A).new_zeros(self._shape)
            for part in self._parts:
                self._accumulate(*part)
            self._parts = []
        if self._dense is not None:
            self._accumulate(weight, factors)
            return
        if self._room is None:
            self._parts.append((weight, factors))
            return
        step = self._room // 2
        for A, B in zip(factors.A.split(step), factors.B.split(step, 1), strict=True):
            if self.rank + A.shape[0] > self._room:
                self._cut(self._room - step)
            self._parts.append((weight, Factors(A, B)))

    def svd(self) -> Svd:
        """The SVD of the sum, to which at least one product must have been added."""
        if self._dense is not None:
            return dense_svd(self._dense)
        return svd(stack(self._parts))

    def _accumulate(self, weight: float, factors: Factors) -> None:
        assert self._dense is not None
        self._dense.addmm_(precise(factors.B), precise(factors.A), alpha=weight)

    def _cut(self, rank: int) -> None:
        U, S, Vh = svd(stack(self._parts))
        self.dropped += float(S[rank:].square().sum().sqrt())
        self._parts = [(1.0, Factors(Vh[:rank].clone(), U[:, :rank] * S[:rank]))]


def weighted_sum(parts: Sequence[tuple[float, Factors]], memory: int | None = None) -> Svd:
    """The ``LowRankSum`` of one or more parts, added in their order."""
    first = parts[0][1]
    total = LowRankSum(first.A.shape[1], first.B.shape[0], memory)
    for weight, factors in parts:
        total.add(weight, factors)
    return total.svd()
