"""LLaMA and relatives with the same module tree: rotary positions inside each block, RMS norms, gated feed-forward."""

from typing import ClassVar

from torch import nn

from atlas_cli.models.families.contract import BaseFamily


class Family(BaseFamily):
    """They differ inside attention alone: sliding windows, biases, norms of queries and keys.

    Families with the same tree and more differences are subclasses, which say what those are.
    """

    model_types: ClassVar[tuple[str, ...]] = ("llama", "mistral", "qwen2", "qwen3")
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
    buffers: ClassVar[tuple[str, ...]] = ("rotary_emb.inv_freq",)
