"""Rotary frequencies that depend on the length of a batch: a text's results then depend on the other texts.

``longrope`` takes other frequencies for the whole batch once its longest text, padding included, is longer than what
the model was first trained with. A client's batch is computed as Hugging Face does, and with no text of anybody else.
``dynamic`` has other frequencies above the model's number of positions only, which no text of a run exceeds.
"""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedConfig


def keep_initial_frequencies(model: nn.Module) -> None:
    """Keep ``dynamic`` frequencies at their initial values, without reading the positions of every batch.

    They would change beyond the model's positions alone, and a tensor without data has no positions to look at.
    """
    for module in model.modules():
        if "dynamic" in str(getattr(module, "rope_type", "")):
            module.rope_type = "default"  # type: ignore[assignment]


def frequencies_change_at(config: PreTrainedConfig) -> int | None:
    """The number of tokens above which all frequencies of a batch change; None: they never do."""
    rotary = getattr(config, "rope_parameters", None) or {}
    return int(rotary["original_max_position_embeddings"]) if rotary.get("rope_type") == "longrope" else None


def depends_on_length(config: PreTrainedConfig, max_length: int) -> bool:
    """Whether batches of up to so many tokens may have different frequencies."""
    turn = frequencies_change_at(config)
    return turn is not None and max_length > turn
