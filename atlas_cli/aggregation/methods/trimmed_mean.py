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

from pydantic import Field
from torch import Tensor

from atlas_cli.aggregation.coordinates import CoordinateMethod, trimmed_mean
from atlas_cli.config.schema.section import Section


class Method(CoordinateMethod):
    """Adds the coordinate-wise trimmed mean of the clients' changes."""

    class Options(Section):
        """Options of the trimming."""

        trim: float = Field(
            0.1, ge=0, lt=0.5, description="The share of clients that is cut at each side of every number."
        )

    options: Options

    def caution(self, n_clients: int) -> str | None:
        """Warn that so few clients are not trimmed at all."""
        if self._cut(n_clients):
            return None
        return f"trim {self.options.trim:g} of {n_clients} clients cuts nobody: this is the plain mean"

    def _centre(self, values: Tensor) -> Tensor:
        """The trimmed mean over the first axis."""
        return trimmed_mean(values, self._cut(len(values)))

    def _cut(self, n_clients: int) -> int:
        return math.floor(self.options.trim * n_clients + 1e-9)
