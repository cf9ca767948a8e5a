"""Coordinate-wise median (Yin et al., 1803.01498, definition 1) of what clients changed, on products.

    G <- trunc_R(G + median_k (dW_k after - dW_k before)),  dW = s B A

taken apart for every number of the matrix, over the clients that hold the layer; of an even number it is the mean of
the two in the middle. Fewer than half of the clients, whatever they send, move the result no further than honest ones
do. Weights of clients are not used. trunc_R is the truncated SVD; the merge is dense (d_out, d_in). Uplink and
downlink: r_k (d_in + d_out) elements a layer. The frozen base is not changed; absent clients keep what they hold;
moments of A and B are reset by a delivery.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from atlas_cli.aggregation.contract import Adapters, Context, Factors, Merge, Update, truncated
from atlas_cli.aggregation.coordinates import merge_by_coordinate, trimmed_mean
from atlas_cli.aggregation.coordinates import require_room as require_room
from atlas_cli.config.schema.section import Section

SENT = DELIVERED = TRAINED = ("A", "B")
GROUP_ADAPTER = True
CHANGES_BASE = False
UNWEIGHTED = "counts each client once"


class Options(Section):
    """None."""


def aggregate(current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
    """G after the round, and before it was truncated."""
    return merge_by_coordinate(current, updates, lambda values: centre(values, context.options), context.server_memory)


def deliver(merged: Adapters, held: Adapters, ranks: Mapping[str, int]) -> dict[str, Factors]:
    """The r largest components of each layer that the client adapts."""
    return truncated(merged, ranks)


def centre(values: Tensor, options: Section) -> Tensor:
    """The median over the first axis: all but the one or two in the middle trimmed."""
    return trimmed_mean(values, (len(values) - 1) // 2)


def caution(n_clients: int, options: Section) -> str | None:
    """That two clients have no middle."""
    return None if n_clients > 2 else f"the median of {n_clients} clients is their plain mean"
