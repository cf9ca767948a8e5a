"""HetLoRA (Cho et al., 2401.06432, eq. 4): zero-padded means, each client weighted by the norm of its update.

    A = sum_k p_k pad(A_k),  B = sum_k p_k pad(s_k B_k),  p_k proportional to norm(s_k B_k A_k), a layer at a time

so that clients whose update is large, which tend to be those of high rank, count for more; a receiver gets the first r
rows and columns. A layer where all updates are zero is averaged by examples. The paper's self-pruning of ranks is not
part of this: ranks are the config's. Uplink and downlink: r_k (d_in + d_out) elements a layer. The frozen base is not
changed; absent clients keep what they hold; moments of A and B are reset by a delivery.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atlas_cli.aggregation._base import Adapters, Context, Factors, Merge, Update, truncated
from atlas_cli.aggregation._low_rank import squared_norm
from atlas_cli.aggregation._padding import padded_means
from atlas_cli.config.section import Section

SENT = DELIVERED = TRAINED = ("A", "B")
GROUP_ADAPTER = True
CHANGES_BASE = False


class Options(Section):
    """None."""


def aggregate(current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
    """The group's adapter at the largest rank of its clients; layers that nobody sent stay as they are."""
    trained = [path for path in current if any(squared_norm(u.adapters[path]) for u in updates if path in u.adapters)]
    by_norm = padded_means({path: current[path] for path in trained}, updates, lambda f: squared_norm(f) ** 0.5)
    return Merge({**padded_means(current, updates), **by_norm})


def deliver(merged: Adapters, held: Adapters, ranks: Mapping[str, int]) -> dict[str, Factors]:
    """The first r rows and columns of each layer that the client adapts."""
    return truncated(merged, ranks)
