"""Gemma 2: bounded attention scores and logits, an embedding that scales itself, four norms a block."""

from torch import nn

from atlas_cli.models.families.contract import BaseFamily


class Family(BaseFamily):
    """No fused attention bounds scores, so it is written out, and texts do not stand in one row of real tokens."""

    model_types = ("gemma2",)
    blocks = "layers"
    final_norm = "norm"
    input_side = {"embed_tokens": nn.Identity}
    targets = ("self_attn.q_proj", "self_attn.v_proj")
    causal = True
    packs = False
    stages = (
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.o_proj",),
        ("mlp.gate_proj", "mlp.up_proj"),
        ("mlp.down_proj",),
    )
    ends_in_norm = True
    buffers = ("rotary_emb.inv_freq",)
