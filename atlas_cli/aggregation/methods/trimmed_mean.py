"""Coordinate-wise trimmed mean (Yin et al., 1803.01498, definition 2) of what clients changed, on products.

    G <- trunc_R(G + tmean_k (dW_k after - dW_k before)),  dW = s B A

where tmean drops, at every number of the matrix, the floor(trim K) smallest and largest of the K clients that hold the
layer and takes the plain mean of the rest: as many bad clients move the result no further than honest ones do. Weights
of clients are not used: one that could claim a large weight would need no large update. With floor(trim K) = 0, as
trim = 0.1 has below 10 clients, nobody is cut and it is the uniform mean of ``delta-svd``. trunc_R is the truncated
SVD; the merge is dense (d_out, d_in). Uplink and downlink: r_k (d_in + d_out) elements a layer. The frozen base is not
changed; absent clients keep what they hold; moments of A and B are reset by a delivery.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pydantic import Field
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
    """Of the trimming."""

    trim: float = Field(0.1, ge=0, lt=0.5, description="share of clients cut at each side of every number")


def aggregate(current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
    """G after the round, and before it was truncated."""
    return merge_by_coordinate(current, updates, lambda values: centre(values, context.options), context.server_memory)


def deliver(merged: Adapters, held: Adapters, ranks: Mapping[str, int]) -> dict[str, Factors]:
    """The r largest components of each layer that the client adapts."""
    return truncated(merged, ranks)


def centre(values: Tensor, options: Section) -> Tensor:
    """The trimmed mean over the first axis."""
    return trimmed_mean(values, _cut(len(values), options))


def caution(n_clients: int, options: Section) -> str | None:
    """That nobody is cut."""
    if _cut(n_clients, options):
        return None
    assert isinstance(options, Options)
    return f"trim {options.trim:g} of {n_clients} clients cuts nobody: this is the plain mean"


def _cut(n_clients: int, options: Section) -> int:
    assert isinstance(options, Options)
    return math.floor(options.trim * n_clients + 1e-9)
