"""raFLoRA (2602.13486, eq. 8): each component is averaged over those clients alone whose rank reaches it.

    X = sum_j sum_{k: r_k > j} (w_k / W_j) s_k B_k[:, j] A_k[j],  W_j = sum_{k: r_k > j} w_k

over the clients that hold the layer. The paper writes it by levels of rank, between which W_j is the same. A mean over
all clients (``flexlora``) multiplies component j by W_j every round, though nobody moved it: ranks collapse to the
least. As with ``delta-svd`` an idle round changes nothing; but there a direction that one client of ten can hold is
moved by a tenth of what that client did, and here by all of it. Components beyond the largest rank that was sent stay
as they are. Where all senders have one rank it is ``delta-svd``.

The sum is cut to the group's rank R by truncated SVD, and its components are delivered in descending order: a receiver
of rank r gets the best rank-r approximation. Uplink and downlink: r_k (d_in + d_out) elements a layer. The frozen base
is not changed; absent clients keep what they hold; moments of A and B are reset by a delivery.
"""

from __future__ import annotations

from collections.abc import Sequence

from atlas_cli.aggregation.contract import Factors, Update
from atlas_cli.aggregation.error import weight_by_column
from atlas_cli.aggregation.low_rank import precise
from atlas_cli.aggregation.methods import delta_svd


class Method(delta_svd.Method):
    """Averages each component over the clients that have it."""

    LINEAR = None  # a component is averaged over those that have it
    TAKES_LATE = None  # a component of an earlier version is another direction than that of its number now

    def _parts(self, path: str, held: Sequence[tuple[float, Update]], before: Factors) -> list[tuple[float, Factors]]:
        """The clients' products with each component divided by W_j, and what is beyond the ranks that were sent."""
        sent = [(weight, update.adapters[path]) for weight, update in held]
        least, most = (pick(factors.rank for _, factors in sent) for pick in (min, max))
        if least == most:
            return super()._parts(path, held, before)
        reach = weight_by_column(path, held, before)
        reach[:least] = 1  # all have these
        products = [(w, Factors(A, precise(B) / reach[: len(A)])) for w, (A, B) in sent]
        return [*products, (1.0, Factors(before.A[most:], before.B[:, most:]))]
