"""FedEx-LoRA (Singhal et al., 2410.09432, eq. 5): averaged adapters, and what the average misses merged into the base.

    A = sum_k w_k pad(A_k),  B = sum_k w_k pad(s_k B_k),  W <- W + (X - B A)

In the paper ranks are equal. Here a receiver of rank r gets the first r rows of A and columns of B, and X less *that*
product in its base, so that the sum is exact at every rank. To keep one residual for all clients of a group, the
group holds T <- T + sum_k w_k (dW_k after - dW_k before), and a client runs W + T + (dW_k - dW_k as delivered): what
its adapter is worth at delivery is in T already and is subtracted, and the adapter goes on from the mean. Uplink: r_k
(d_in + d_out) elements a layer; downlink: that and the rows added to T, at most (sum r_k + max r_k)(d_in + d_out).
The exported adapter is T, of rank at most min(d_in, d_out). A client that was absent keeps its base and adapter until
it takes part again, and is sent all that it missed. Moments of A and B are reset by a delivery.

With ``wire.deliveries`` T has what is decoded, dW_k as delivered is what client k decoded, and of dW_k after - dW_k
before as many rows are added again instead of max r_k: 2 sum r_k in all.
"""

from __future__ import annotations

from collections.abc import Sequence

from atlas_cli.aggregation.contract import Adapters, BaseMethod, Context, Merge, Update
from atlas_cli.aggregation.error import exact_change
from atlas_cli.aggregation.low_rank import stack
from atlas_cli.aggregation.padding import padded_means


class Method(BaseMethod):
    """Averages padded factors, and merges what the average misses into the base."""

    KEEPS_COMPONENTS = True
    CHANGES_BASE = True

    def aggregate(self, current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
        """The averaged adapter and the change of T; layers that nobody sent stay as they are."""
        base = {}
        for path, before in current.items():
            if change := exact_change(path, updates, before):
                base[path] = stack(change, before.A.dtype)
        return Merge(padded_means(current, updates), base)
