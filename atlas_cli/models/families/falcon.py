"""Falcon, old and new architecture: one key and value for all heads, or for groups of them; feed-forward beside."""

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedConfig

from atlas_cli.models.families.contract import BaseFamily


class Family(BaseFamily):
    """Its attention calls torch by itself, so that texts do not stand in one row of real tokens."""

    model_types = ("falcon",)
    blocks = "h"
    final_norm = "ln_f"
    input_side = {"word_embeddings": nn.Identity}
    targets = ("self_attention.query_key_value",)
    causal = True
    packs = False
    stages = (
        ("self_attention.query_key_value",),
        ("self_attention.dense",),
        ("mlp.dense_h_to_4h",),
        ("mlp.dense_4h_to_h",),
    )
    buffers = ("rotary_emb.inv_freq",)
    options = ("alibi",)

    def uncovered(self, config: PreTrainedConfig) -> Iterator[tuple[str, str]]:
        """Heads that do not share keys and values evenly are not covered."""
        if config.new_decoder_architecture and config.num_attention_heads % config.num_kv_heads:
            yield "num_kv_heads", f"does not divide num_attention_heads {config.num_attention_heads}"

    def parallel(self, config: PreTrainedConfig) -> bool:
        """Always in the new architecture; in the old, the value of ``parallel_attn``."""
        return bool(config.new_decoder_architecture or config.parallel_attn)

    def fused_attention(self, config: PreTrainedConfig) -> bool:
        """Where each head has keys and values of its own by then; one key for all heads is multiplied plainly."""
        return bool(config.new_decoder_architecture or not config.multi_query)
