"""Rotary frequencies that depend on the length of a batch: a text's results then depend on the other texts.

``longrope`` takes other frequencies for the whole batch once its longest text, padding included, is longer than what
the model was first trained with. A client's batch is computed as Hugging Face does, and with no text of anybody else.
``dynamic`` has other frequencies above the model's number of positions only, which no text of a run exceeds.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from atlas_cli.models.files.rotary_tables import rotary_tables


def keep_initial_frequencies(model: nn.Module) -> None:
    """Keep ``dynamic`` frequencies at their initial values, without reading the positions of every batch.

    They would change beyond the model's positions alone, and a tensor without data has no positions to look at.
    """
    for module in model.modules():
        kinds: Any = getattr(module, "rope_type", "")
        if "dynamic" in str(kinds):
            by_type = isinstance(kinds, dict)
            initial: Any = {name: _initial(kind) for name, kind in kinds.items()} if by_type else _initial(kinds)
            module.rope_type = initial


def _initial(kind: str) -> str:
    return "default" if "dynamic" in kind else kind


def frequencies_change_at(config: PreTrainedConfig) -> int | None:
    """The number of tokens above which all frequencies of a batch change; None: they never do."""
    tables = rotary_tables(getattr(config, "rope_parameters", None)).values()
    turns = [int(t["original_max_position_embeddings"]) for t in tables if t.get("rope_type") == "longrope"]
    return min(turns, default=None)


def positions_to_write(config: PreTrainedConfig, positions: int | None) -> tuple[int | None, str]:
    """The most tokens of a text that is generated, and what they are, in words.

    Where frequencies change, keys and values that are kept would be of others than those to come.
    """
    turn = frequencies_change_at(config)
    if turn is None or (positions is not None and positions <= turn):
        return positions, "positions"
    return turn, "positions with the same rotary frequencies"


def depends_on_length(config: PreTrainedConfig, max_length: int) -> bool:
    """Whether batches of up to so many tokens may have different frequencies."""
    turn = frequencies_change_at(config)
    return turn is not None and max_length > turn
