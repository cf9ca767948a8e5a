"""FLoRA-NA (2509.26399): weights of their own for the clients' A and B, so that the product is nearly X.

    A = sum_k q_k pad(A_k),  B = sum_k p_k pad(s_k B_k),  p and q that minimise norm(B A - X)^2

over the clients that hold the layer, with X = sum_k w_k s_k B_k A_k. Two numbers a client and layer are found at the
server, and nothing more is sent. They begin with p = q = w, which is ``zero-pad``, and are then solved for in turn by
least squares, each step of which is the best for the other: the error never grows. It is never below that of the
truncated SVD of X (``flexlora``), which is the best of that rank; but A stays in the span of what clients trained,
component by component.

In the paper ranks are equal; here factors are padded with zeros. X itself counts a component that a client does not
hold as zero there: ranks collapse as with ``flexlora``. Rows of A beyond the largest rank that was sent stay as they
were, with B = 0. Uplink and downlink: r_k (d_in + d_out) elements a layer. The frozen base is not changed; absent
clients keep what they hold; moments of A and B are reset by a delivery.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atlas_cli.aggregation.contract import Adapters, BaseMethod, Context, Factors, Merge, Update, resized
from atlas_cli.aggregation.error import shares
from atlas_cli.aggregation.low_rank import precise
from atlas_cli.aggregation.padding import padded_means

STEPS = 20  # of each of p and q


class Method(BaseMethod):
    """Averages padded factors by weights that bring their product near to the mean of products."""

    def aggregate(self, current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
        """The group's adapter at the largest rank of its clients; layers that nobody sent stay as they are."""
        merged = padded_means(current, updates)
        for path, mean in merged.items():
            held = [(weight, update.adapters[path]) for weight, update in shares(path, updates)]
            if any(factors.B.any() for _, factors in held):
                merged[path] = _nearest(held, mean)
        return Merge(merged)


def _nearest(held: Sequence[tuple[float, Factors]], mean: Factors) -> Factors:
    """The factors by p and q, in the shapes of ``mean``, whose rows beyond the ranks of ``held`` they have."""
    p, q = _weights(held)
    A, B = (precise(part).clone() for part in mean)
    A[: max(factors.rank for _, factors in held)] = 0
    B.zero_()
    for p_k, q_k, (_, factors) in zip(p, q, held, strict=True):
        A[: factors.rank] += q_k * precise(factors.A)
        B[:, : factors.rank] += p_k * precise(factors.B)
    return Factors(A.to(mean.A.dtype), B.to(mean.B.dtype))


def _weights(held: Sequence[tuple[float, Factors]]) -> tuple[Tensor, Tensor]:
    """p and q, from factors in orthonormal bases of all rows of A and of all columns of B, which keep all norms."""
    ranks = [factors.rank for _, factors in held]
    R_A = torch.linalg.qr(torch.cat([precise(factors.A) for _, factors in held]).T, mode="r").R
    R_B = torch.linalg.qr(torch.cat([precise(factors.B) for _, factors in held], 1), mode="r").R
    A = torch.stack([resized(part.T, (max(ranks), len(R_A))) for part in R_A.split(ranks, 1)])
    B = torch.stack([resized(part, (len(R_B), max(ranks))) for part in R_B.split(ranks, 1)])
    w = A.new_tensor([weight for weight, _ in held])
    q = w
    for _ in range(STEPS):
        p = _best(B, A, w, _sum(q, A))
        q = _best(A.mT, B.mT, w, _sum(p, B).T)
    return p, q


def _best(left: Tensor, right: Tensor, w: Tensor, fixed: Tensor) -> Tensor:
    """The p that minimise norm((sum_k p_k L_k) F - sum_k w_k L_k R_k), with L (K, m, r), R (K, r, n) and F (r, n)."""
    gram = (left @ (fixed @ fixed.T)).flatten(1) @ left.flatten(1).T  # <L_k F, L_l F>
    wanted = _sum(w, left @ (right @ fixed.T))  # X F^T
    return torch.linalg.pinv(gram, hermitian=True) @ (left * wanted).sum((1, 2))


def _sum(weights: Tensor, values: Tensor) -> Tensor:
    return torch.tensordot(weights, values, 1)
