"""The change of a task group's frozen weights, where the aggregation method merges into the base (flora, fedex).

The shared base itself is never touched: the change is a low-rank residual T = B @ A a layer, run beside the frozen
weight. It grows by the stacked factors of each merge, and a client is sent the rows that it has not seen. Once its
rank would pass min(d_in, d_out) it is written with that many, which loses nothing; who missed that gets it whole.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from atlas_cli.aggregation._base import Adapters, Factors
from atlas_cli.aggregation._low_rank import truncate


class BaseChange:
    """T of one task group, by layer, and its rank at each version of the group's adapter.

    Attributes:
        total: T as stacked factors.
        ranks: by version since the last rewriting, the rank of every layer then.
    """

    def __init__(self) -> None:
        self.total: dict[str, Factors] = {}
        self.ranks: dict[int, dict[str, int]] = {0: {}}

    def grow(self, change: Adapters, version: int) -> None:
        """Add a merge's change; the result is the group's at ``version``."""
        rewritten = False
        for path, factors in change.items():
            before = self.total.get(path)
            if before is not None:
                factors = Factors(torch.cat([before.A, factors.A]), torch.cat([before.B, factors.B], 1))
            full = min(factors.A.shape[1], factors.B.shape[0])
            if factors.rank > full:
                factors, rewritten = truncate(factors, full), True
            self.total[path] = factors
        self.ranks = {} if rewritten else self.ranks
        self.ranks[version] = {path: factors.rank for path, factors in self.total.items()}

    def missing(self, version: int) -> dict[str, Tensor]:
        """What a client at ``version`` has to be sent, as tensors ``<path>.base_A`` and ``<path>.base_B``."""
        seen = self.ranks.get(version, {})
        tensors = {}
        for path, factors in self.total.items():
            if factors.rank > (first := seen.get(path, 0)):
                tensors[f"{path}.base_A"] = factors.A[first:].contiguous()
                tensors[f"{path}.base_B"] = factors.B[:, first:].contiguous()
        return tensors

    def missing_elements(self, version: int, features: Mapping[str, tuple[int, int]]) -> int:
        """The closed form of the same: new rows times (d_in + d_out)."""
        seen = self.ranks.get(version, {})
        return sum((f.rank - seen.get(path, 0)) * sum(features[path]) for path, f in self.total.items())
