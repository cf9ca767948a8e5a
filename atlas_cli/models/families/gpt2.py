"""GPT-2: learned positions are added before the blocks, one Conv1D makes query, key and value."""

from torch import nn

from atlas_cli.models.families.contract import BaseFamily, NoPositions, TrainedBlock

# four tensors of gelu_new, written out as arithmetic; one where it is one operation
_GELU_TENSORS = {"gelu_new": 4, "gelu": 1, "gelu_pytorch_tanh": 1}


class Family(BaseFamily):
    """Of all sizes."""

    model_types = ("gpt2",)
    blocks = "h"
    final_norm = "ln_f"
    input_side = {"wte": nn.Identity, "wpe": NoPositions, "drop": nn.Identity}
    targets = ("attn.c_attn",)
    causal = True
    stages = (("attn.c_attn",), ("attn.c_proj",), ("mlp.c_fc",), ("mlp.c_proj",))
    buffers = ("attn.bias", "attn.masked_bias")

    def saved_bytes(self, block: TrainedBlock) -> int | None:
        """Query, key and value are views of one tensor; the first norm saves nothing where nothing below trains."""
        config = block.config
        tensors = 1 if block.fused_gelu else _GELU_TENSORS.get(config.activation_function, 0)
        if config.activation_function not in _GELU_TENSORS or config.add_cross_attention:
            return None
        width, inner = config.n_embd, config.n_inner or 4 * config.n_embd
        norms = 2 if block.gradient_below else 1
        return (
            block.adapters(width)
            + block.attention(width, width, config.n_head)
            + norms * block.layer_norm(width)
            + tensors * block.element * block.positions * inner
        )
