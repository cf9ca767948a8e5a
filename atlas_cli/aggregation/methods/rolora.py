"""RoLoRA (Chen et al., 2502.01755): clients train B while A is frozen and shared, then A while B is, and so on.

    B <- B + sum_k w_k pad(s_k B_k - B[:, :r_k])  in odd merges,   A <- A + sum_k w_k pad(A_k - A[:r_k])  in even ones

over the clients that hold the layer. The factor that nobody trains is the same for all, so a mean of the other is the
mean of products: the group's update moves by exactly sum_k w_k (dW_k after - dW_k before), in half of the bytes, and A
learns, too, which it does not with ``ffa``. B is first, as A has no gradient while B is 0. In the paper ranks are
equal; here a client of rank r has the first r rows and columns, and counts as not having changed the others, so that an
idle round changes nothing. Components are never put into another order: an absent client's factors would no longer fit.

Uplink and downlink: r_k d_out elements a layer, then r_k d_in; a client that missed both kinds of merges is sent both
factors. The frozen base is not changed; absent clients keep what they hold; moments are of one factor at a time, and
begin anew each round.
"""

from __future__ import annotations

from collections.abc import Sequence

from atlas_cli.aggregation.contract import Adapters, BaseMethod, Context, Merge, Parts, Update
from atlas_cli.aggregation.padding import padded_changes


class Method(BaseMethod):
    """Trains and merges B and A in turn."""

    KEEPS_COMPONENTS = True
    CUTS_MAY_DIFFER = False  # the server would train both factors of the layers that it holds for some

    def parts_of(self, merge: int) -> Parts:
        """B in odd merges, A in even ones."""
        one = ("B",) if merge % 2 else ("A",)
        return Parts(one, one, one)

    def aggregate(self, current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
        """The factor of this merge, moved by the mean change; the other one as it was."""
        return Merge(padded_changes(current, updates, self.parts_of(context.merge).sent))
