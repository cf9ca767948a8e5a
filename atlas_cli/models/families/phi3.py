"""Phi-3, Phi-3.5 and Phi-4: one layer makes queries, keys and values, and one the feed-forward's gate and its input."""

from torch import nn

from atlas_cli.models.families.contract import BaseFamily


class Family(BaseFamily):
    """Phi-4-mini has rotary positions on a part of each head; models for long texts have other ones for these."""

    model_types = ("phi3",)
    blocks = "layers"
    final_norm = "norm"
    input_side = {"embed_tokens": nn.Identity}
    targets = ("self_attn.qkv_proj",)
    causal = True
    stages = (("self_attn.qkv_proj",), ("self_attn.o_proj",), ("mlp.gate_up_proj",), ("mlp.down_proj",))
    buffers = ("rotary_emb.inv_freq",)
    options = ("partial_rotary_factor",)
