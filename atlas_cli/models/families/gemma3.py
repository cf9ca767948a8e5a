"""Gemma 3 for text: its embedding scales itself; local and global blocks have rotary tables of their own."""

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedConfig

from atlas_cli.models.families.contract import BaseFamily


class Family(BaseFamily):
    """Four norms a block, norms of queries and keys. Images, and so the model type ``gemma3``, are not covered."""

    model_types = ("gemma3_text",)
    blocks = "layers"
    final_norm = "norm"
    input_side = {"embed_tokens": nn.Identity}
    targets = ("self_attn.q_proj", "self_attn.v_proj")
    causal = True
    stages = (
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.o_proj",),
        ("mlp.gate_proj", "mlp.up_proj"),
        ("mlp.down_proj",),
    )
    ends_in_norm = True
    buffers = ("rotary_emb.inv_freq", "rotary_emb_local.inv_freq")
    options = ("sliding_window_pattern", "rope_local_base_freq")

    def uncovered(self, config: PreTrainedConfig) -> Iterator[tuple[str, str]]:
        """A bound of attention scores, which transformers' class does not compute, is not covered."""
        if config.attn_logit_softcapping is not None:
            yield "attn_logit_softcapping", "is not computed by transformers' Gemma 3"
