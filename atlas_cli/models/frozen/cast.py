"""Casts the frozen base to another dtype, for clients whose device does not hold it in ``model.dtype``."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.frozen.row_embedding import by_rows, row_embeddings
from atlas_cli.models.frozen.weight_format import WeightFormat
from atlas_cli.models.halves.split import blocks_of


def base_in_format(
    base: FrozenBase, format: WeightFormat, layers: int | None = None, output: bool = True
) -> FrozenBase:
    """A copy of a base with its weights held in ``format``; the base itself where they are held so.

    As ``from_pretrained(dtype=...)`` does it: what a checkpoint holds is cast, and what is computed when a model is
    made (the frequencies of rotary positions) stays float32. Tied weights stay tied, and ``sha256`` is the source's.

    Args:
        layers: cast what clients need that are cut there or below: the input side and the blocks under this one. The
            blocks above and the final norm are the base's own. None: cast everything.
        output: whether an output embedding is cast that is not tied to the input embedding.
    """
    dtype = getattr(torch, format.dtype)
    if dtype == base.dtype:
        return base
    shared = [] if layers is None else above(base, layers)
    if base.lm_head is not None and not output and not _tied(base):
        shared.append(base.lm_head)
    # a deep copy takes over what it finds in its memo
    memo: dict[int, object] = {id(module): module for module in shared}
    kept = {id(t) for module in shared for t in (*module.parameters(), *module.buffers())}
    for tensor, stored in _tensors(base):
        if id(tensor) not in kept and id(tensor) not in memo:
            memo[id(tensor)] = _cast(tensor, dtype) if stored and tensor.is_floating_point() else tensor
    model, lm_head = copy.deepcopy((base.model, base.lm_head), memo)
    return replace(base, model=model, lm_head=lm_head)


@torch.no_grad()
def cast_error(base: FrozenBase, stored: FrozenBase) -> float:
    """The largest difference of a copy's weights from the base's weights in the copy's dtype.

    It is 0 for a right copy, and NaN if a weight is NaN.
    """
    if (rows := next(row_embeddings(stored.model), None)) is not None:
        base = by_rows(base, rows.tokens, None)
    pairs = zip(_tensors(base), _tensors(stored), strict=True)
    gaps = [_gap(theirs, ours) for (ours, _), (theirs, _) in pairs if theirs is not ours]
    return float(torch.tensor(gaps).max()) if gaps else 0.0  # max() of Python would lose a NaN


def _gap(copied: Tensor, source: Tensor) -> float:
    return float((copied - source.to(copied.dtype)).abs().max()) if copied.numel() else 0.0


def _tensors(base: FrozenBase) -> Iterator[tuple[Tensor, bool]]:
    """Parameters and buffers, and whether a checkpoint holds them; tied ones come as often as they are named."""
    for root in (base.model, base.lm_head):
        for module in root.modules() if root is not None else ():
            yield from ((p, True) for p in module._parameters.values() if p is not None)
            passing = module._non_persistent_buffers_set
            yield from ((b, name not in passing) for name, b in module._buffers.items() if b is not None)


def above(base: FrozenBase, layers: int) -> list[nn.Module]:
    """The modules that clients cut at ``layers`` or below do not hold: later blocks and the final norm."""
    norm = base.family.final_norm
    return [*blocks_of(base.model, base.family)[layers:], *([base.model.get_submodule(norm)] if norm else [])]


def _tied(base: FrozenBase) -> bool:
    assert base.lm_head is not None
    own = {id(p) for p in base.model.parameters()}
    return any(id(p) in own for p in base.lm_head.parameters())


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    cast = tensor.detach().to(dtype)
    return nn.Parameter(cast, requires_grad=False) if isinstance(tensor, nn.Parameter) else cast
