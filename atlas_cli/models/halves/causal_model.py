"""Presents the two halves of a causal model as one to Hugging Face's ``generate``, so that decoding is stock code.

Each half keeps the keys and values of its own blocks. For every new token the lower half computes one hidden state a
sequence, which crosses the cut.
"""

from __future__ import annotations

import copy
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from atlas_cli.models.halves.split import run_half


class Crossing(Protocol):
    """What passes between the halves."""

    def up(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """What the upper half gets of the lower half's outputs (B, T, D).

        Args:
            mask: (B, T), 0 on padding; None: nothing is padding.
        """

    def down(self, hidden: Tensor) -> Tensor:
        """What the head gets of the upper half's outputs for the last token, (B, 1, D)."""


class SplitCache(Cache):
    """Keys and values on either side of the cut, each those of its own blocks.

    Args:
        config: of the whole model.
        cut: the number of blocks below.
    """

    # else generate may compute a step ahead and undo it, and what crosses the cut for that would be counted
    is_croppable = False

    def __init__(self, config: PreTrainedConfig, cut: int) -> None:
        super().__init__(layers=DynamicCache(config=config).layers)
        self.below = Cache(layers=self.layers[:cut])
        self.above = _CacheAbove(self.layers[cut:], cut)


class _CacheAbove(Cache):
    """Of the blocks from ``first`` on, which know themselves by their number in the whole model."""

    def __init__(self, layers: list[Any], first: int) -> None:
        super().__init__(layers=layers)
        self._first = first

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        return super().update(key_states, value_states, layer_idx - self._first, *args, **kwargs)


class SplitCausalModel(PreTrainedModel, GenerationMixin):
    """A causal model whose forward runs the lower half, what crosses the cut, the upper half and the head.

    Args:
        config: of the whole model.
        lower, upper: the halves, in whose blocks adapters are attached already.
        head: gives logits (B, T, V) for hidden states and their mask.
        crossing: what passes between the halves.
    """

    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:  # read from the source of a model's file otherwise
        return True

    def __init__(
        self, config: PreTrainedConfig, lower: nn.Module, upper: nn.Module, head: nn.Module, crossing: Crossing
    ) -> None:
        super().__init__(copy.deepcopy(config))  # it writes to its config
        self.generation_config = GenerationConfig()  # nothing is taken from the model's own config
        self.lower, self.upper, self.head, self._crossing = lower, upper, head, crossing
        self.eval()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: SplitCache | None = None,
        logits_to_keep: int = 1,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, 1, V) of the token that comes after ``input_ids`` (B, T) and those in the cache."""
        assert past_key_values is not None and logits_to_keep == 1
        below = run_half(
            self.lower, attention_mask, past_key_values.below, input_ids=input_ids, position_ids=position_ids
        )
        mask = None if attention_mask is None else attention_mask[:, -input_ids.shape[1] :]
        above = run_half(
            self.upper,
            attention_mask,
            past_key_values.above,
            inputs_embeds=self._crossing.up(below, mask),
            position_ids=position_ids,
        )
        last = self._crossing.down(above[:, -1:])
        ones = last.new_ones(last.shape[:2])
        return CausalLMOutputWithPast(logits=self.head(last, ones), past_key_values=past_key_values)
