"""The change of a task group's frozen weights, where the aggregation method merges into the base (flora, fedex).

The shared base is never written to: the change is a low-rank residual T = B @ A per layer, run beside the frozen
weight. A client is sent the rows that merges added since its last delivery (``base-change``) and adds them as the
server did; once the rank of T would pass min(d_in, d_out), both rewrite it at that rank, which is exact. A client that
missed more rows than that is sent T itself (``base-total``), which replaces the client's T.

With ``wire.deliveries`` rows are sent by a codec (``coded_rows``), and T has what is decoded of them. T itself, and
what it begins with, are sent as they are, so that all have the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from atlas_cli.aggregation.contract import Adapters, Factors
from atlas_cli.aggregation.low_rank import truncate
from atlas_cli.federation.client_state.base_changes import changes_by_path, named_changes, require_changes
from atlas_cli.federation.merging.coded_rows import RowsCodec, factors_of, joined
from atlas_cli.storage.state_dict import (
    StateDict,
    copies,
    copy_into,
    is_count,
    pop_prefix,
    require_tensor,
    require_value,
    tensors_and_values,
)
from atlas_cli.wire.lost import Lost
from atlas_cli.wire.messages import BaseRows, BaseTotal
from atlas_cli.wire.parameter_codec import Coded


class BaseChange:
    """T of one task group, by layer.

    Args:
        codec: by which rows are sent; None: as they are.

    Attributes:
        total: T as stacked factors.
        rows: by version of the group's adapter, the rows that its merge added; kept for the latest versions, as long as
            their rows together do not exceed the largest rank of T.
        coded: by version, its rows as they are sent, where a codec sends them.
    """

    def __init__(self, codec: RowsCodec | None = None) -> None:
        self.total: dict[str, Factors] = {}
        self.rows: dict[int, dict[str, Factors]] = {}
        self.coded: dict[int, Coded] = {}
        self._codec = codec

    def grow(self, change: Adapters, version: int) -> None:
        """Add the change of one merge, as it is decoded; the result is T at ``version``."""
        if self._codec is not None and change and version:
            self.coded[version] = coded = self._codec.encode(change, version)
            change = factors_of(coded.decoded)
        # as what is read from a store or a checkpoint lies: products with other strides may round otherwise
        change = {path: Factors(*(t.contiguous() for t in factors)) for path, factors in change.items()}
        for path, factors in change.items():
            whole = stack_products([self.total[path], factors]) if path in self.total else factors
            whole = truncate(whole, full_rank(whole)) if whole.rank > full_rank(whole) else whole
            self.total[path] = Factors(*(t.contiguous() for t in whole))
        self.rows[version] = dict(change)
        while any(sum(n) > full_rank(self.total[path]) for path, n in self._ranks(self.rows).items()):
            del self.rows[min(self.rows)]
        self.coded = {made: coded for made, coded in self.coded.items() if made in self.rows}

    def state_dict(self) -> StateDict:
        """``versions`` whose rows are kept, T, and the rows of each version: ``total/<path>/0/A``,
        ``<version>/<path>/0/B``; with a codec also ``coded/<version>/<part>``, as floats, which is what checkpoints
        have, and what was lost of them."""
        state: StateDict = {"versions": list(self.rows)}
        if self._codec is not None:
            state["lost"] = [[made, *vars(coded.lost).values()] for made, coded in self.coded.items()]
            for made, coded in self.coded.items():
                state |= copies(f"coded/{made}/", {name: _as_floats(part) for name, part in coded.parts.items()})
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
        tensors, values = tensors_and_values(state, ["versions", *(["lost"] if self._codec is not None else [])])
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
        rows = {int(version): adapters for version, adapters in found.items() if version != "total"}
        coded = self._checked_coded(self._codec, values["lost"], tensors, rows) if self._codec is not None else {}
        copy_into({}, tensors)
        self.total, self.rows, self.coded = found["total"], rows, coded

    def missing(self, version: int, client: str) -> BaseRows | BaseTotal:
        """The message that brings a client at ``version`` up to date."""
        parts: dict[str, list[Factors]] = {}
        since = self._since(version)
        coded = [self.coded[made] for made in since if made in self.coded]
        for added in (added for made, added in since.items() if made not in self.coded):
            for path, factors in added.items():
                parts.setdefault(path, []).append(factors)
        tensors: dict[str, Tensor] = {}
        for path, each in parts.items():
            whole = stack_products(each)
            tensors |= {f"{path}.base_A": whole.A, f"{path}.base_B": whole.B}
        lost = sum((each.lost for each in coded), Lost()) if coded else None
        return (BaseRows if self._kept(version) else BaseTotal)(client, tensors | joined(coded), lost=lost)

    def missing_bytes(self, version: int, features: Mapping[str, tuple[int, int]]) -> int:
        """The bytes of its tensors in closed form: rows times (d_in + d_out), of 4 or as a codec sends them."""
        total = 0
        for made, added in self._since(version).items():
            if made in self.coded and self._codec is not None:
                total += self._codec.bytes(added)
            else:
                total += 4 * sum(factors.rank * sum(features[path]) for path, factors in added.items())
        return total

    def _since(self, version: int) -> dict[int, Mapping[str, Factors]]:
        """What was added after ``version``, by the version that has it, or T itself where that is no longer kept."""
        if not self._kept(version):
            return {-1: self.total}
        return {made: added for made, added in sorted(self.rows.items()) if made > version}

    @staticmethod
    def _checked_coded(
        codec: RowsCodec, lost: Any, tensors: dict[str, Tensor], rows: Mapping[int, Adapters]
    ) -> dict[int, Coded]:
        """What was read of rows as they are sent, without their names in ``tensors``; each is of rows that are kept."""
        found: dict[int, Coded] = {}
        fits = isinstance(lost, list) and all(isinstance(each, list) and len(each) == 6 for each in lost)
        require_value(fits, "lost", "is no list of a version, four sums and a count each")
        for made, *sums in lost:
            known = is_count(made) and made in rows and all(type(each) in (int, float) for each in sums)
            require_value(known, "lost", f"names {made!r:.40}, whose rows are not kept")
            parts, layout = pop_prefix(f"coded/{made}/", tensors), codec.layout(rows[made])
            same = {name: tuple(part.shape) for name, part in parts.items()} == {n: s for n, (s, _) in layout.items()}
            require_tensor(same, f"coded/{made}", "is not what its rows are sent as")
            device = next(iter(rows[made].values())).A.device
            found[made] = Coded({n: t.to(device, layout[n][1], copy=True) for n, t in parts.items()}, {}, Lost(*sums))
        return found

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


def _as_floats(part: Tensor) -> Tensor:
    if part.is_floating_point():
        return part
    return part.to(torch.float32 if part.dtype.itemsize < 4 else torch.float64)  # exact


def full_rank(factors: Factors) -> int:
    """The largest rank of a layer's change: min(d_in, d_out)."""
    return min(factors.A.shape[1], factors.B.shape[0])


def stack_products(parts: list[Factors]) -> Factors:
    """The sum of products as one pair, in their own dtype."""
    return Factors(torch.cat([f.A for f in parts]), torch.cat([f.B for f in parts], 1))
