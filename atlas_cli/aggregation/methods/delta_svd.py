"""The default: the group keeps an update G of rank R and adds to it what clients changed.

    G <- trunc_R(G + sum_k w_k (dW_k after - dW_k before))

over the clients that hold the layer, dW = s B A, each from what it began with, so that updates may be of earlier
versions of G; a receiver of rank r gets the best rank-r approximation of G.
Averaging absolute updates would erase, every round, the directions of G that clients of low rank were never sent;
here an idle round changes nothing. trunc_R is the truncated SVD (Eckart and Young, 1936) and R the largest rank of
the group at the layer. Uplink and downlink: r_k (d_in + d_out) elements a layer. The frozen base is not changed;
absent clients keep what they hold; moments of A and B are reset by a delivery, for its components are in another
order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from atlas_cli.aggregation import low_rank
from atlas_cli.aggregation.contract import Adapters, BaseMethod, Context, Factors, LateAs, LinearAt, Merge, Update
from atlas_cli.aggregation.error import changed, shares
from atlas_cli.aggregation.low_rank import redistribute, weighted_sum


class Method(BaseMethod):
    """Adds the clients' changes to the group's update."""

    TAKES_LATE: ClassVar[LateAs | None] = "products"
    LINEAR: ClassVar[LinearAt | None] = "any ranks"

    def aggregate(self, current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
        """G after the round, and G before truncation."""
        merged, target = dict(current), dict(current)
        for path, before in current.items():
            if held := shares(path, updates):
                whole = weighted_sum(self._parts(path, held, before), self.server_memory)
                target[path], merged[path] = whole.factors, redistribute(whole, before)
        return Merge(merged, target=target)

    def _parts(self, path: str, held: Sequence[tuple[float, Update]], before: Factors) -> list[tuple[float, Factors]]:
        """The products that sum up to G after the round, over at least one holder of the layer."""
        return changed(path, held, before)

    def require_room(self, d_in: int, d_out: int) -> None:
        """Check that a stack of rank 2 fits."""
        low_rank.require_room(d_in, d_out, self.server_memory)
