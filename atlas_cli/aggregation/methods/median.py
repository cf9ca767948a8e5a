"""Coordinate-wise median (Yin et al., 1803.01498, definition 1) of what clients changed, on products.

    G <- trunc_R(G + median_k (dW_k after - dW_k before)),  dW = s B A

taken apart for every number of the matrix, over the clients that hold the layer; of an even number it is the mean of
the two in the middle. Fewer than half of the clients, whatever they send, move the result no further than honest ones
do. Weights of clients are not used. trunc_R is the truncated SVD; the merge is dense (d_out, d_in). Uplink and
downlink: r_k (d_in + d_out) elements a layer. The frozen base is not changed; absent clients keep what they hold;
moments of A and B are reset by a delivery.
"""

from __future__ import annotations

from torch import Tensor

from atlas_cli.aggregation.coordinates import CoordinateMethod, trimmed_mean


class Method(CoordinateMethod):
    """Adds the coordinate-wise median of the clients' changes."""

    def caution(self, n_clients: int) -> str | None:
        """Warn that the median of two clients is their mean."""
        return None if n_clients > 2 else f"the median of {n_clients} clients is their plain mean"

    def _centre(self, values: Tensor) -> Tensor:
        """The median over the first axis: the mean of the one or two middle values."""
        return trimmed_mean(values, (len(values) - 1) // 2)
