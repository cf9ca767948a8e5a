"""FedSA-LoRA (Guo et al., 2410.01463): A learns what clients share and is averaged, B stays at home.

    A = sum_k w_k pad(A_k),  B_k stays on client k

over the clients that hold the layer. Each client ends with a model of its own, so a group has no adapter to predict
with or to export: its figures are means over its clients, and an aggregation error does not apply. Uplink and
downlink: r_k d_in elements a layer. The frozen base is not changed; absent clients keep what they hold; moments of A
are reset by a delivery, those of B stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atlas_cli.aggregation._base import Adapters, Context, Factors, Merge, Update, truncated
from atlas_cli.aggregation._padding import padded_means
from atlas_cli.config.section import Section

SENT = DELIVERED = ("A",)
TRAINED = ("A", "B")
GROUP_ADAPTER = False
CHANGES_BASE = False


class Options(Section):
    """None."""


def aggregate(current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
    """The mean of A at the largest rank; B stays what the group started from."""
    merged = padded_means(current, updates)
    return Merge({path: Factors(merged[path].A, current[path].B) for path in current})


def deliver(merged: Adapters, held: Adapters, ranks: Mapping[str, int]) -> dict[str, Factors]:
    """The first r rows of A, and the client's own B."""
    return {path: Factors(factors.A, held[path].B) for path, factors in truncated(merged, ranks).items()}
