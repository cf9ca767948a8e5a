"""FlexLoRA (Bai et al., 2402.11505, eq. 3 and 4): the truncated SVD of the exact sum, at each receiver's rank.

    X = sum_k w_k s_k B_k A_k = U S V^T,  receiver of rank r: U_r S_r V_r^T

over the clients that hold the layer. Best at every rank for one round; but directions of the group's update that
clients of low rank were never sent are averaged with zero, every round. Uplink and downlink: r_k (d_in + d_out)
elements a layer. The frozen base is not changed; absent clients keep what they hold; moments of A and B are reset by a
delivery.
"""

from __future__ import annotations

from collections.abc import Sequence

from atlas_cli.aggregation import low_rank
from atlas_cli.aggregation.contract import Adapters, BaseMethod, Context, Merge, Update
from atlas_cli.aggregation.error import shares
from atlas_cli.aggregation.low_rank import redistribute, weighted_sum


class Method(BaseMethod):
    """Delivers the truncated SVD of the exact sum."""

    LINEAR = "equal ranks"

    def aggregate(self, current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
        """X at the largest rank of the group, and X itself."""
        merged, target = dict(current), dict(current)
        for path, before in current.items():
            if held := shares(path, updates):
                whole = weighted_sum([(w, u.adapters[path]) for w, u in held], self.server_memory)
                target[path], merged[path] = whole.factors, redistribute(whole, before)
        return Merge(merged, target=target)

    def require_room(self, d_in: int, d_out: int) -> None:
        """Check that a stack of rank 2 fits."""
        low_rank.require_room(d_in, d_out, self.server_memory)
