"""What the blocks of a half save for backward, by the formula of their family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atlas_cli.models.families.contract import BaseFamily, TrainedBlock

ELEMENT = {"float32": 4, "bfloat16": 2}
# families whose blocks are given the padding mask by keyword: a checkpoint saves arguments by position
_MASK_BY_KEYWORD = ("llama",)


def blocks_saved(
    family: BaseFamily,
    hf_config: Any,
    layers: range,
    ranks: Mapping[str, int],
    batch: int,
    tokens: int,
    *,
    dtype: str,
    padded: bool,
    fused_gelu: bool,
    gradient_below: bool,
) -> list[int] | None:
    """Bytes of every block in ``layers``; None where the family has no formula or it does not hold.

    It holds for adapters on all the family's default targets of a layer or on none of them.

    Args:
        ranks: of adapters by path in the base; only those in ``layers``.
        gradient_below: whether what goes into the first block needs a gradient, as on the server.
    """
    saved, lowest, placed = [], True, 0
    for layer in layers:
        paths = [f"{family.blocks}.{layer}.{target}" for target in family.targets]
        here = tuple(ranks[path] for path in paths if path in ranks)
        placed += len(here)
        if here and len(here) < len(paths):
            return None
        if not here and not gradient_below:
            saved.append(0)
            continue
        block = TrainedBlock(hf_config, batch, tokens, ELEMENT[dtype], padded, fused_gelu, here, gradient_below, lowest)
        size = family.saved_bytes(block)
        if size is None:
            return None
        saved.append(size)
        gradient_below, lowest = True, False
    return saved if placed == len(ranks) else None


def checkpointed_saved(
    family: BaseFamily, hf_config: Any, trained: int, batch: int, tokens: int, *, dtype: str, padded: bool
) -> int:
    """Bytes that ``trained`` checkpointed blocks save: an input each, and the mask that all share, a byte an entry."""
    masked = padded and trained > 0 and not set(family.model_types) & set(_MASK_BY_KEYWORD)
    inputs = trained * batch * tokens * int(hf_config.hidden_size) * ELEMENT[dtype]
    return inputs + (batch * tokens**2 if masked else 0)
