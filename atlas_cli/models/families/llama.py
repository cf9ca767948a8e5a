"""LLaMA and relatives with the same module tree: rotary positions inside each block, RMS norms, gated feed-forward."""

from torch import nn

from atlas_cli.models.families.contract import BaseFamily, TrainedBlock


class Family(BaseFamily):
    """They differ inside attention alone: sliding windows, biases, norms of queries and keys."""

    model_types = ("llama", "mistral", "qwen2", "qwen3")
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
    buffers = ("rotary_emb.inv_freq",)

    def saved_bytes(self, block: TrainedBlock) -> int | None:
        """Norms save their input in float32 and a scale; the gated feed-forward saves three tensors; LLaMA itself only.

        With a padding mask, keys and values are repeated to one a query head; the rotary table is saved once.
        """
        config = block.config
        if config.model_type != "llama" or config.hidden_act != "silu":
            return None
        n, e = block.positions, block.element
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = config.num_attention_heads
        shared = config.num_key_value_heads
        groups = heads if block.padded and shared > 1 else shared  # a single one is repeated without a copy
        norm = 4 * n * (config.hidden_size + 1)
        return (
            block.adapters(config.hidden_size, norm_keeps_input=e == 4)
            + block.attention(heads * head, groups * head, heads)
            + (2 if block.gradient_below else 1) * norm
            + 3 * e * n * config.intermediate_size
            + (2 * e * block.tokens * head if block.lowest else 0)
        )
