"""What a config says of each block, in lists with an entry a block."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from transformers import PreTrainedConfig

_LISTS = ("layer_types", "no_rope_layers")


def shortened(hf_config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """The config of the same model with only its lowest blocks."""
    return of_blocks(hf_config, range(layers))


def of_blocks(hf_config: PreTrainedConfig, numbers: Sequence[int]) -> PreTrainedConfig:
    """The config of a model that consists of these blocks of the given one, from the bottom up."""
    found = copy.deepcopy(hf_config)
    found.num_hidden_layers = len(numbers)
    for name in _LISTS:
        entries = getattr(hf_config, name, None)
        if entries is not None:
            setattr(found, name, [entries[number] for number in numbers])
    return found


def kinds_of_blocks(hf_config: PreTrainedConfig, blocks: int) -> list[tuple[object, ...]]:
    """What tells the first ``blocks`` blocks apart; equal for blocks that compute the same on other weights."""
    lists = [entries for name in _LISTS if (entries := getattr(hf_config, name, None)) is not None]
    return [tuple(entries[number] for entries in lists) for number in range(blocks)]
