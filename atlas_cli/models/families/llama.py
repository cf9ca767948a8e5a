"""LLaMA and relatives with the same module tree: rotary positions inside each block, RMS norms, gated feed-forward."""

from torch import nn

from atlas_cli.models.families._base import Family

FAMILY = Family(
    model_types=("llama", "mistral", "qwen2", "qwen3"),
    blocks="layers",
    final_norm="norm",
    input_side={"embed_tokens": nn.Identity},
    targets=("self_attn.q_proj", "self_attn.v_proj"),
    causal=True,
)
