"""Rotary tables that depend on the length of a batch: a text's numbers then depend on what it is computed with.

``longrope`` takes other frequencies for the whole batch once its longest text, padding included, is longer than what
the model was first trained with, and ``dynamic`` recomputes them. A client's batch is computed as Hugging Face does,
and with no text of anybody else.
"""

from __future__ import annotations

from typing import Any


def turns_at(config: Any) -> int | None:
    """The number of tokens above which all frequencies of a batch are others; None: they never are."""
    rotary = getattr(config, "rope_parameters", None) or {}
    kind = str(rotary.get("rope_type", "default"))
    if kind == "longrope":
        return int(rotary["original_max_position_embeddings"])
    return int(config.max_position_embeddings) if "dynamic" in kind else None


def depends_on_length(config: Any, max_length: int) -> bool:
    """Whether batches of up to so many tokens may have different frequencies."""
    turn = turns_at(config)
    return turn is not None and max_length > turn
