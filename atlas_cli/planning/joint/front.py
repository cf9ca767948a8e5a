"""The Pareto front of rows of costs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
DIGITS = 12  # of a cost that are compared: sums in another order differ beyond


def non_dominated(costs: Rows, near: float = 0.0) -> list[int]:
    """The places, in order, of the rows that no other row is at most equal to in every column.

    Of rows that are equal the first is kept. With ``near``, rows are left out, too, that are better than one that is
    kept by no more than this share in any column; none is below 0 then.
    """
    places = np.lexsort(costs.T[::-1])  # stable, and no row comes before one that is nowhere above it
    kept = []
    while len(places):
        kept.append(int(places[0]))
        places = places[((1 + near) * costs[places] < costs[places[0]]).any(axis=1)]
    return sorted(kept)


def rounded(costs: Rows) -> Rows:
    """Costs with ``DIGITS`` digits."""
    with np.errstate(divide="ignore"):
        power = np.where(costs == 0, 0.0, np.floor(np.log10(np.abs(costs))))
    scale = 10.0 ** (DIGITS - 1 - power)
    return np.where(np.isfinite(costs), np.round(costs * scale) / scale, costs)
