"""FedIT (Zhang et al., 2305.05644, eq. 2) on unequal ranks: pad A and B with zeros to the largest rank, average each.

    A = sum_k w_k pad(A_k),  B = sum_k w_k pad(s_k B_k),  w_k = n_k / sum n

over the clients that hold the layer; a receiver of rank r gets the first r rows of A and columns of B, divided by its
own scale. Rows of A beyond the largest rank that was sent stay as they were: B is 0 there, so they add nothing, but
with A = 0 as well they could never learn again. The mean of factors is not the mean of products (cross terms), so the
update that is delivered is not exact. Uplink and downlink: r_k (d_in + d_out) elements a layer. The frozen base is not
changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from atlas_cli.aggregation._base import Adapters, Factors, Update, truncated

SHARED = True


def aggregate(current: Adapters, updates: Sequence[Update]) -> dict[str, Factors]:
    """The group's adapter at the largest rank of its clients; layers that nobody sent stay as they are."""
    merged = dict(current)
    for path, before in current.items():
        held = [(u.weight, u.adapters[path]) for u in updates if path in u.adapters]
        total = sum(weight for weight, _ in held)
        if not held or total <= 0:
            continue
        A, B = before.A.clone(), torch.zeros_like(before.B)
        A[: max(factors.rank for _, factors in held)] = 0
        for weight, factors in held:
            A[: factors.rank] += weight / total * factors.A
            B[:, : factors.rank] += weight / total * factors.B
        merged[path] = Factors(A, B)
    return merged


def deliver(merged: Adapters, held: Adapters, ranks: Mapping[str, int]) -> dict[str, Factors]:
    """The first r rows and columns of each layer that the client adapts."""
    return truncated(merged, ranks)
