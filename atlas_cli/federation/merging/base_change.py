"""The change of a task group's frozen weights, where the aggregation method merges into the base (flora, fedex).

The shared base is never written to: the change is a low-rank residual T = B @ A per layer, run beside the frozen
weight. A client is sent the rows that merges added since its last delivery (``base-change``) and adds them as the
server did; once the rank of T would pass min(d_in, d_out), both rewrite it at that rank, which is exact. A client that
missed more rows than that is sent T itself (``base-total``), which replaces the client's T.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from atlas_cli.aggregation.contract import Adapters, Factors
from atlas_cli.aggregation.low_rank import truncate
from atlas_cli.federation.client_state.base_changes import changes_by_path, named_changes, require_changes
from atlas_cli.storage.state_dict import (
    StateDict,
    copies,
    copy_into,
    is_count,
    pop_prefix,
    require_value,
    tensors_and_values,
)
from atlas_cli.wire.messages import BaseRows, BaseTotal


class BaseChange:
    """T of one task group, by layer.

    Attributes:
        total: T as stacked factors.
        rows: by version of the group's adapter, the rows that its merge added; kept for the latest versions, as long as
            their rows together do not exceed the largest rank of T.
    """

    def __init__(self) -> None:
        self.total: dict[str, Factors] = {}
        self.rows: dict[int, dict[str, Factors]] = {}

    def grow(self, change: Adapters, version: int) -> None:
        """Add the change of one merge; the result is T at ``version``."""
        for path, factors in change.items():
            whole = stack_products([self.total[path], factors]) if path in self.total else factors
            self.total[path] = truncate(whole, full_rank(whole)) if whole.rank > full_rank(whole) else whole
        self.rows[version] = dict(change)
        while any(sum(n) > full_rank(self.total[path]) for path, n in self._ranks(self.rows).items()):
            del self.rows[min(self.rows)]

    def state_dict(self) -> StateDict:
        """``versions`` whose rows are kept, T, and the rows of each version: ``total/<path>/0/A``,
        ``<version>/<path>/0/B``."""
        state: StateDict = {"versions": list(self.rows)}
        for name, adapters in (("total", self.total), *self.rows.items()):
            state |= copies(f"{name}/", named_changes({path: [factors] for path, factors in adapters.items()}))
        return state

    def load_state_dict(
        self, state: StateDict, *, newest: int, features: Mapping[str, tuple[int, int]], device: torch.device
    ) -> None:
        """Go on from a state.

        Args:
            newest: the group's version.
            features: (d_in, d_out) of the layers that may have changes.

        Raises:
            StateError: impossible versions, or pairs that fit no layer.
        """
        tensors, values = tensors_and_values(state, ["versions"])
        versions = values["versions"]
        whole = isinstance(versions, list) and all(map(is_count, versions)) and versions == sorted(set(versions))
        require_value(whole, "versions", "are no versions in order")
        require_value(not versions or versions[-1] <= newest, "versions", f"has one after the newest, {newest}")
        found: dict[str, dict[str, Factors]] = {}
        for name in ("total", *map(str, versions)):
            pairs = pop_prefix(f"{name}/", tensors)
            require_changes(f"{name}/", pairs, features, pieces=1)
            by_path = changes_by_path(pairs, device)
            found[name] = {path: Factors(*by_path[path][0]) for path in features if path in by_path}
        copy_into({}, tensors)
        self.total = found.pop("total")
        self.rows = {int(version): adapters for version, adapters in found.items()}

    def missing(self, version: int, client: str) -> BaseRows | BaseTotal:
        """The message that brings a client at ``version`` up to date."""
        parts: dict[str, list[Factors]] = {}
        for added in self._since(version):
            for path, factors in added.items():
                parts.setdefault(path, []).append(factors)
        tensors: dict[str, Tensor] = {}
        for path, each in parts.items():
            whole = stack_products(each)
            tensors |= {f"{path}.base_A": whole.A, f"{path}.base_B": whole.B}
        return (BaseRows if self._kept(version) else BaseTotal)(client, tensors)

    def missing_elements(self, version: int, features: Mapping[str, tuple[int, int]]) -> int:
        """The number of elements of that message in closed form: rows times (d_in + d_out)."""
        ranks = self._ranks(dict(enumerate(self._since(version))))
        return sum(sum(n) * sum(features[path]) for path, n in ranks.items())

    def _since(self, version: int) -> list[Mapping[str, Factors]]:
        """What was added after ``version``, or T itself where that is no longer kept."""
        if not self._kept(version):
            return [self.total]
        return [added for made, added in sorted(self.rows.items()) if made > version]

    def _kept(self, version: int) -> bool:
        """Whether all rows that were added after ``version`` are there."""
        return bool(self.rows) and version >= min(self.rows) - 1

    @staticmethod
    def _ranks(rows: Mapping[int, Mapping[str, Factors]]) -> dict[str, list[int]]:
        ranks: dict[str, list[int]] = {}
        for added in rows.values():
            for path, factors in added.items():
                ranks.setdefault(path, []).append(factors.rank)
        return ranks


def full_rank(factors: Factors) -> int:
    """The largest rank of a layer's change: min(d_in, d_out)."""
    return min(factors.A.shape[1], factors.B.shape[0])


def stack_products(parts: list[Factors]) -> Factors:
    """The sum of products as one pair, in their own dtype."""
    return Factors(torch.cat([f.A for f in parts]), torch.cat([f.B for f in parts], 1))
