"""What is merged of a task group, or of a cluster: its adapter, and its change of the frozen weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from atlas_cli.aggregation import selection
from atlas_cli.aggregation.contract import (
    PARTS,
    Adapters,
    BaseMethod,
    Context,
    ExtraTensors,
    Factors,
    Merge,
    absorb,
    release,
    scales_of,
    truncated,
)
from atlas_cli.double import where_double
from atlas_cli.federation.client_state.member import Member
from atlas_cli.federation.merging.base_change import BaseChange
from atlas_cli.federation.merging.coded_rows import RowsCodec
from atlas_cli.federation.parties.numerics import require_finite
from atlas_cli.models.adapters.lora import AdapterSet, Frozen
from atlas_cli.storage.state_dict import require_tensor, with_prefix
from atlas_cli.wire.messages import BaseRows, BaseTotal


class MergedGroup:
    """The merged adapter of a group.

    Args:
        adapters: the group's own, at the largest rank of its clients; it starts from their values.
        method: how it is merged.
        codec: by which rows that merges add to the base are sent; None: as they are.

    Attributes:
        merged: the adapter as scale-free factors; ``adapters`` have the same values.
        change: of the frozen weights, where a merge changes them.
        version: how often the group was merged; a client that was sent another version is behind.
    """

    def __init__(self, adapters: AdapterSet, method: BaseMethod, codec: RowsCodec | None = None) -> None:
        self.adapters, self.version, self._method, self._codec = adapters, 0, method, codec
        self.start()

    def start(self) -> None:
        """Start from the present values of the adapters.

        Where a merge changes the base, the initial update of the adapter counts as part of the base: clients run W + T
        + (dW - dW as delivered).
        """
        # copies: the group's own are overwritten at a merge, and what was before it is still compared with
        self.merged = {path: Factors(*(t.clone() for t in f)) for path, f in factors_to_merge(self.adapters).items()}
        self.change = BaseChange(self._codec)
        if self._method.CHANGES_BASE:
            self.change.grow({path: factors for path, factors in self.merged.items() if factors.B.any()}, 0)

    def load_merged(self) -> None:
        """Load the merged values into the adapters."""
        self.adapters.load(release(self.merged, scales_of(self.adapters)))

    @property
    def device(self) -> torch.device:
        """Where it is merged."""
        return next(iter(self.merged.values())).A.device

    def model(self) -> AdapterSet:
        """What the group predicts with: its adapters, or the changed base that holds everything merged so far."""
        if not self._method.CHANGES_BASE:
            return self.adapters
        return AdapterSet({}, self._total(next(self.adapters.parameters()).device))

    def components(self, client: str, ranks: Mapping[str, int]) -> dict[str, Sequence[int]]:
        """By layer, what a client of these ranks trains for the next merge, if the method ``SELECTS``; else nothing."""
        return selection.components(self._method, client, self.version + 1, ranks, self.merged)

    def offered_to(self, client: str, ranks: Mapping[str, int]) -> dict[str, Factors]:
        """That of which a client trains the first r components: all of it, or those that the method selects for it."""
        return {**self.merged, **selection.picked(self.merged, self.components(client, ranks))}

    def attach(self, client: str, member: Member) -> None:
        """Let a client of the present version run ``frozen_for`` beside its weights."""
        adapters, held = member.adapters, None
        if self._codec is not None:  # what it decoded of the group's adapter is its own, and a copy as it trains on
            held = absorb({name: tensor.clone() for name, tensor in adapters.state().items()}, scales_of(adapters))
        frozen = self.frozen_for(client, member.ranks, next(adapters.parameters()).device, held)
        adapters.frozen.clear()
        adapters.frozen.update(frozen)

    def frozen_for(
        self, client: str, ranks: Mapping[str, int], device: torch.device, held: Adapters | None = None
    ) -> Frozen:
        """What a client runs beside its frozen weights: T + (- dW as delivered), or what the method did not select.

        Args:
            held: what the client was delivered, where that is not the group's adapter at its ranks.
        """
        if self._method.SELECTS:
            beside = selection.others(self.merged, self.components(client, ranks))
            return {path: [(f.A.to(device), f.B.to(device))] for path, f in beside.items()}
        frozen = self._total(device)
        for path, factors in (held or truncated(self.merged, ranks)).items():
            if factors.B.any():
                frozen[path] = [*frozen.get(path, ()), (factors.A.to(device), -factors.B.to(device))]
        return frozen

    def missing(
        self, client: str, version: int, ranks: Mapping[str, int], features: Mapping[str, tuple[int, int]]
    ) -> tuple[BaseRows | BaseTotal, int]:
        """The message with what a client at a version lacks beside its weights, and the closed form of its bytes."""
        if not self._method.SELECTS:
            return self.change.missing(version, client), self.change.missing_bytes(version, features)
        parts, tensors, elements = PARTS if version < 0 else self.delivered_since(version), dict[str, Tensor](), 0
        for path, factors in selection.others(self.merged, self.components(client, ranks)).items():
            for part, tensor, size in zip(PARTS, factors, features[path], strict=True):
                if part in parts:
                    tensors[f"{path}.base_{part}"] = tensor
                    elements += (self.merged[path].rank - ranks[path]) * size
        return BaseTotal(client, tensors), 4 * elements

    def delivered_since(self, version: int) -> set[str]:
        """The parts, "A" and "B", of all merges after a version, for who has that one."""
        parts_of = self._method.parts_of
        return {part for merge in range(version + 1, self.version + 1) for part in parts_of(merge).delivered}

    def tensors(self, group: str) -> dict[str, Tensor]:
        """Its own tensors but for changes of the base, for a checkpoint."""
        named = {f"{path}/{part}": t for path, f in self.merged.items() for part, t in zip(PARTS, f, strict=True)}
        return with_prefix(f"merged/{group}/", named) | with_prefix(f"group/{group}/", self.adapters.state())

    def _total(self, device: torch.device) -> Frozen:
        return {path: [(f.A.to(device), f.B.to(device))] for path, f in self.change.total.items()}


def to_merge(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors where they are merged: where sums can be taken in float64."""
    return {name: tensor.to(where_double(tensor.device)) for name, tensor in tensors.items()}


def factors_to_merge(adapters: AdapterSet) -> dict[str, Factors]:
    """Adapters as scale-free factors, where they are merged."""
    return absorb(to_merge(adapters.state()), scales_of(adapters))


def parts_of(state: Mapping[str, Tensor], parts: Collection[str]) -> dict[str, Tensor]:
    """The tensors of the given parts ("A", "B"), as they are sent."""
    return {name: tensor for name, tensor in state.items() if name.rpartition("lora_")[2] in parts}


def are_equal(state: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether all tensors are those of ``other``, bit for bit."""
    return all(tensor.equal(other[name]) for name, tensor in state.items())


def require_finite_merge(merge: Merge, kept: Mapping[str, Tensor], context: Context) -> None:
    """Check that neither a merge nor what the method keeps of the group after it has a value that is not finite.

    Raises:
        NonFiniteError: names the tensor, the group and the round.
    """
    for what, adapters in (("merged adapter", merge.adapters), ("change of the base", merge.base)):
        for path, factors in adapters.items():
            for part, tensor in zip(PARTS, factors, strict=True):
                require_finite(tensor, f"{what} of {context.group}, {path}.lora_{part}, round {context.round}")
    for name, tensor in kept.items():
        require_finite(tensor, f"{name} that the method keeps of {context.group}, round {context.round}")


def checked_method_state(
    state: Mapping[str, Tensor], groups: Mapping[str, MergedGroup], told: Mapping[str, ExtraTensors]
) -> dict[str, Tensor]:
    """Copies of what the method remembers of groups (``<group>/<name>``), where they are computed with.

    Raises:
        StateError: of another group, or of a shape that the method does not tell.
    """
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        group, _, own = name.partition("/")
        require_tensor(group in groups, f"method/{name}", "is of no group")
        shape = told[group].at_server.get(own)  # of another rank where groups changed
        fits = shape is not None and len(shape) == value.dim()
        require_tensor(fits, f"method/{name}", f"has shape {tuple(value.shape)}")
        found[name] = value.to(groups[group].device, copy=True)
    return found
