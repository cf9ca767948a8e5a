"""Phi-1 to Phi-2: rotary positions on a part of each head; attention and feed-forward read the same norm's output."""

from torch import nn
from transformers import PreTrainedConfig

from atlas_cli.models.families.contract import BaseFamily


class Family(BaseFamily):
    """All linear layers have a bias, the output embedding too."""

    model_types = ("phi",)
    blocks = "layers"
    final_norm = "final_layernorm"
    input_side = {"embed_tokens": nn.Identity, "embed_dropout": nn.Identity}
    targets = ("self_attn.q_proj", "self_attn.v_proj")
    causal = True
    stages = (
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.dense",),
        ("mlp.fc1",),
        ("mlp.fc2",),
    )
    buffers = ("rotary_emb.inv_freq",)
    options = ("partial_rotary_factor",)

    def parallel(self, config: PreTrainedConfig) -> bool:
        """Always."""
        return True
