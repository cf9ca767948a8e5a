"""FedSVD (Lee et al., 2505.12805): only B is trained, as with ``ffa``, and each merge turns A to what B has learned.

    B <- B + sum_k w_k pad(s_k B_k - B[:, :r_k]),  B A = U S V^T,  A <- V^T,  B <- U S

over the clients that hold the layer. A is the same for all clients of a round, so the mean of B is exact at the largest
rank; then the factors are rotated, which does not change their product: A gets orthonormal rows in descending order of
what they are worth, so that the next round trains B in the directions that matter, with norm(dL/dB) <= s
norm(dL/dW). Under differential privacy the noise is on B alone and enters once. In the paper ranks are equal. Here a
client of rank r gets the first r rows and columns, which are the best rank-r approximation and orthonormal, too; it
counts as not having changed the others, so that an idle round changes nothing.

The rotation is by the r x r factors of QR, and rows of A for which B is 0 stay within what A spanned. Uplink: r_k d_out
elements a layer; downlink: r_k (d_in + d_out). The frozen base is not changed; absent clients keep what they hold;
moments of B are reset by a delivery, A has none.
"""

from __future__ import annotations

from collections.abc import Sequence

from atlas_cli.aggregation.contract import Adapters, BaseMethod, Context, Merge, Update
from atlas_cli.aggregation.error import shares
from atlas_cli.aggregation.low_rank import rotated
from atlas_cli.aggregation.padding import padded_changes


class Method(BaseMethod):
    """Averages B over one shared A, and rotates both."""

    SENT = TRAINED = ("B",)

    def aggregate(self, current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
        """The mean change of B, rotated; layers that nobody sent stay as they are."""
        moved = padded_changes(current, updates, ("B",))
        return Merge({path: rotated(f) if shares(path, updates) else f for path, f in moved.items()})
