"""Casts and quantises the frozen base, for parties whose device does not hold it as it was loaded."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from atlas_cli.models.frozen.load import FrozenBase, current_sha256
from atlas_cli.models.frozen.quantized import linear_layers, quantized, rounding
from atlas_cli.models.frozen.row_embedding import by_rows, row_embeddings
from atlas_cli.models.frozen.weight_format import WeightFormat
from atlas_cli.models.halves.split import blocks_of


def base_in_format(
    source: FrozenBase,
    format: WeightFormat,
    layers: int | None = None,
    output: bool = True,
    server: FrozenBase | None = None,
) -> FrozenBase:
    """A copy of a loaded base with its weights held in ``format``; the base itself where they are held so.

    As ``from_pretrained(dtype=...)`` does it: what a checkpoint holds is cast, and what is computed when a model is
    made (the frequencies of rotary positions) stays float32. The linear layers of the blocks are then quantised. Tied
    weights stay tied, what is neither cast nor quantised is shared with the source, and ``sha256`` is the source's.

    Args:
        layers: make what clients need that are cut there or below: the input side and the blocks under this one. The
            blocks above and the final norm are those of ``server``. None: make everything.
        output: whether an output embedding is cast that is not tied to the input embedding.
        server: the base of the server, of the same source; None: the source itself.
    """
    upper = server or source
    if format == source.format and upper is source:
        return source
    memo: dict[int, object] = {}  # a deep copy takes over what it finds in its memo
    if layers is not None:
        memo |= {id(ours): theirs for ours, theirs in zip(above(source, layers), above(upper, layers), strict=True)}
    if source.lm_head is not None and not output and not _tied(source):
        memo[id(source.lm_head)] = upper.lm_head
    dtype = getattr(torch, format.dtype)
    difference = _quantize(source, format, memo)
    kept = {id(t) for m in _modules(source) if id(m) in memo for t in (*m.parameters(), *m.buffers())}
    for tensor, stored in _tensors(source):
        if id(tensor) not in kept and id(tensor) not in memo:
            memo[id(tensor)] = _cast(tensor, dtype) if stored and tensor.is_floating_point() else tensor
    model, lm_head = copy.deepcopy((source.model, source.lm_head), memo)
    made = replace(source, model=model, lm_head=lm_head)
    if format.quantization == upper.quantization == "none":
        return made
    made = replace(made, quantization=format.quantization, rounding=difference)
    return replace(made, held_sha256=current_sha256(made))


def _quantize(source: FrozenBase, format: WeightFormat, memo: dict[int, object]) -> float:
    """Quantise the linear layers of the blocks that are not in ``memo``, and put them there.

    Returns:
        The largest difference of their weights from the source's.
    """
    differences = [0.0]
    for block in blocks_of(source.model, source.family) if format.quantization != "none" else ():
        for layer in linear_layers(block).values() if id(block) not in memo else ():
            if id(layer) not in memo:  # blocks may share it
                made = quantized(layer, format.quantization, getattr(torch, format.dtype))
                memo[id(layer)] = made
                differences.append(0.0 if layer.weight.is_meta else rounding(made, layer))
    return max(differences)


def is_unchanged(base: FrozenBase) -> bool:
    """Whether the weights are what they were when the base was loaded, or a copy with quantised weights was made."""
    return current_sha256(base) == (base.held_sha256 or base.sha256)


@torch.no_grad()
def cast_error(base: FrozenBase, stored: FrozenBase) -> float:
    """The largest difference of a copy's weights from the base's weights in the copy's dtype.

    It is 0 for a right copy, and NaN if a weight is NaN. Weights beside quantised ones are compared by hash with what
    they were when the copy was made; if they differ, the result is infinite.
    """
    if stored.held_sha256 is not None:
        return 0.0 if is_unchanged(stored) else math.inf
    if (rows := next(row_embeddings(stored.model), None)) is not None:
        base = by_rows(base, rows.tokens, None)
    pairs = zip(_tensors(base), _tensors(stored), strict=True)
    gaps = [_gap(theirs, ours) for (ours, _), (theirs, _) in pairs if theirs is not ours]
    return float(torch.tensor(gaps).max()) if gaps else 0.0  # max() of Python would lose a NaN


def _gap(copied: Tensor, source: Tensor) -> float:
    return float((copied - source.to(copied.dtype)).abs().max()) if copied.numel() else 0.0


def _tensors(base: FrozenBase) -> Iterator[tuple[Tensor, bool]]:
    """Parameters and buffers, and whether a checkpoint holds them; tied ones come as often as they are named."""
    for module in _modules(base):
        yield from ((p, True) for p in module._parameters.values() if p is not None)
        passing = module._non_persistent_buffers_set
        yield from ((b, name not in passing) for name, b in module._buffers.items() if b is not None)


def _modules(base: FrozenBase) -> Iterator[nn.Module]:
    for root in (base.model, base.lm_head):
        yield from root.modules() if root is not None else ()


def above(base: FrozenBase, layers: int) -> list[nn.Module]:
    """The modules that clients cut at ``layers`` or below do not hold: later blocks and the final norm."""
    norm = base.family.final_norm
    return [*blocks_of(base.model, base.family)[layers:], *([base.model.get_submodule(norm)] if norm else [])]


def _tied(base: FrozenBase) -> bool:
    assert base.lm_head is not None
    own = {id(p) for p in base.model.parameters()}
    return any(id(p) in own for p in base.lm_head.parameters())


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if tensor.dtype == dtype:
        return tensor
    cast = tensor.detach().to(dtype)
    return nn.Parameter(cast, requires_grad=False) if isinstance(tensor, nn.Parameter) else cast
