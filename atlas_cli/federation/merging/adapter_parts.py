"""Which tensors of an adapter set a method sends: A, B or both, by their names."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from atlas_cli.double import where_double
from atlas_cli.models.adapters.lora import AdapterSet


def select_parts(state: Mapping[str, Tensor], parts: Collection[str]) -> dict[str, Tensor]:
    """The tensors of the given parts ("A", "B"), as they are sent."""
    return {name: tensor for name, tensor in state.items() if name.rpartition("lora_")[2] in parts}


def differs(state: Mapping[str, Tensor], other: Mapping[str, Tensor], part: str) -> bool:
    """Whether any tensor of a part differs, bit for bit, from that in ``other``."""
    return any(not tensor.equal(other[name]) for name, tensor in select_parts(state, (part,)).items())


def ranks_of(adapters: AdapterSet) -> dict[str, int]:
    """Adapter rank by path."""
    return {path: adapter.rank for path, adapter in adapters.adapters.items()}


def to_merge(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors where they are merged: where sums can be taken in float64."""
    return {name: tensor.to(where_double(tensor.device)) for name, tensor in tensors.items()}
