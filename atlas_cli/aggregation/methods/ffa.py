"""FFA-LoRA (Sun et al., 2403.12313): A is frozen and shared, only B is trained and averaged.

    B = sum_k w_k pad(s_k B_k)

over the clients that hold the layer. Every client's A is the first r rows of one seeded A, so a mean of B is the mean
of products: exact at the largest rank, and recommended under differential privacy, where noise on A and B would
multiply. Uplink and downlink: r_k d_out elements a layer (A once, before the first round). The frozen base is not
changed; absent clients keep what they hold; moments of B are reset by a delivery, A has none.
"""

from __future__ import annotations

from collections.abc import Sequence

from atlas_cli.aggregation.contract import Adapters, BaseMethod, Context, Factors, Merge, Update
from atlas_cli.aggregation.padding import padded_means


class Method(BaseMethod):
    """Averages B over one frozen, shared A."""

    KEEPS_COMPONENTS = True
    SENT = DELIVERED = TRAINED = ("B",)
    TAKES_LATE = "factors"
    LINEAR = "equal ranks"

    def aggregate(self, current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
        """The mean of B, with the A that all clients share."""
        merged = padded_means(current, updates)
        return Merge({path: Factors(current[path].A, merged[path].B) for path in current})
