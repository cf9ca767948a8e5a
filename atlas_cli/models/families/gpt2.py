"""GPT-2: learned positions are added before the blocks, one Conv1D makes query, key and value."""

from torch import nn

from atlas_cli.models.families.contract import BaseFamily, NoPositions


class Family(BaseFamily):
    """GPT-2 of all sizes."""

    model_types = ("gpt2",)
    blocks = "h"
    final_norm = "ln_f"
    input_side = {"wte": nn.Identity, "wpe": NoPositions, "drop": nn.Identity}
    targets = ("attn.c_attn",)
    causal = True
    stages = (("attn.c_attn",), ("attn.c_proj",), ("mlp.c_fc",), ("mlp.c_proj",))
    buffers = ("attn.bias", "attn.masked_bias")
