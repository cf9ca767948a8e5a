"""GPT-2: learned positions are added before the blocks, one Conv1D makes query, key and value."""

from torch import nn

from atlas_cli.models.families._base import Family, NoPositions

FAMILY = Family(
    model_types=("gpt2",),
    blocks="h",
    final_norm="ln_f",
    input_side={"wte": nn.Identity, "wpe": NoPositions, "drop": nn.Identity},
    targets=("attn.c_attn",),
    causal=True,
)
