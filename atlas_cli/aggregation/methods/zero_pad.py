"""FedIT (Zhang et al., 2305.05644, eq. 2) on unequal ranks: pad A and B with zeros to the largest rank, average each.

    A = sum_k w_k pad(A_k),  B = sum_k w_k pad(s_k B_k),  w_k = n_k / sum n

over the clients that hold the layer; a receiver of rank r gets the first r rows of A and columns of B, divided by its
own scale. Rows of A beyond the largest rank that was sent stay as they were: B is 0 there, so they add nothing, but
with A = 0 as well they could never learn again. The mean of factors is not the mean of products (cross terms), so the
update that is delivered is not exact. Uplink and downlink: r_k (d_in + d_out) elements a layer. The frozen base is not
changed; absent clients keep what they hold; moments of A and B are reset by a delivery.
"""

from __future__ import annotations

from collections.abc import Sequence

from atlas_cli.aggregation.contract import Adapters, BaseMethod, Context, Merge, Update
from atlas_cli.aggregation.padding import padded_means


class Method(BaseMethod):
    """Averages factors that are padded with zeros."""

    KEEPS_COMPONENTS = True
    TAKES_LATE = "factors"

    def aggregate(self, current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
        """The group's adapter at the largest rank of its clients; layers that nobody sent stay as they are."""
        return Merge(padded_means(current, updates))
