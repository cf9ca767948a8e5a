"""SmolLM3: LLaMA's module tree; every fourth block has no rotary positions."""

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedConfig

from atlas_cli.models.families.contract import BaseFamily


class Family(BaseFamily):
    """Which blocks have none, ``no_rope_layers`` says; where sliding windows are used, these are the ones with them."""

    model_types = ("smollm3",)
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

    def uncovered(self, config: PreTrainedConfig) -> Iterator[tuple[str, str]]:
        """Lists that are too short, and windows that are both used and not used, are not covered."""
        for name in ("no_rope_layers", "layer_types"):
            if len(getattr(config, name)) < config.num_hidden_layers:
                yield name, f"has fewer entries than there are blocks ({config.num_hidden_layers})"
        if not config.use_sliding_window and "sliding_attention" in config.layer_types:
            yield "use_sliding_window", "contradicts layer_types, which has sliding_attention"
