"""FedSA-LoRA (Guo et al., 2410.01463): A learns what clients share and is averaged, B stays at home.

    A[j] = sum_k w_k A_k[j] / sum_k w_k over the clients with rank above j,  B_k stays on client k

The paper has equal ranks. Padding with zeros would shrink the rows that few clients hold, every round, while their B
stays: clients that do nothing would lose their updates. Each client ends with a model of its own, so a group has no
adapter to predict with or to export: its figures are means over its clients, and an aggregation error does not apply.
Uplink and downlink: r_k d_in elements a layer. The frozen base is not changed; absent clients keep what they hold;
moments of A are reset by a delivery, those of B stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atlas_cli.aggregation.contract import Adapters, BaseMethod, Context, Factors, Merge, Update, truncated
from atlas_cli.aggregation.error import shares, weight_by_column
from atlas_cli.aggregation.low_rank import precise
from atlas_cli.aggregation.padding import padded_means


class Method(BaseMethod):
    """Averages A; every client keeps its own B."""

    KEEPS_COMPONENTS = True
    SENT = DELIVERED = ("A",)
    GROUP_ADAPTER = False

    def aggregate(self, current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
        """The mean of each row of A; rows that nobody sent stay as they are, and B stays as it was initialised."""
        merged = dict(current)
        for path, padded in padded_means(current, updates).items():
            if held := shares(path, updates):
                weights = weight_by_column(path, held, current[path])
                weights[weights == 0] = 1
                A = precise(padded.A) / weights[:, None]
                merged[path] = Factors(A.to(padded.A.dtype), current[path].B)
        return Merge(merged)

    def deliver(self, merged: Adapters, held: Adapters, ranks: Mapping[str, int]) -> dict[str, Factors]:
        """The first r rows of A with the client's own B."""
        return {path: Factors(factors.A, held[path].B) for path, factors in truncated(merged, ranks).items()}
