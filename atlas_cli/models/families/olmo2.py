"""OLMo 2: norms come after attention and feed-forward, and there are norms of all queries and of all keys together."""

from torch import nn

from atlas_cli.models.families.contract import BaseFamily


class Family(BaseFamily):
    """Attention and feed-forward read the residual stream as it is."""

    model_types = ("olmo2",)
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
    buffers = ("rotary_emb.inv_freq",)
