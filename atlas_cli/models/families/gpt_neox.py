"""GPT-NeoX and Pythia: rotary positions on a part of each head; attention and feed-forward read the block's input."""

from torch import nn
from transformers import PreTrainedConfig

from atlas_cli.models.families.contract import BaseFamily


class Family(BaseFamily):
    """One linear layer makes query, key and value, head by head."""

    model_types = ("gpt_neox",)
    blocks = "layers"
    final_norm = "final_layer_norm"
    input_side = {"embed_in": nn.Identity, "emb_dropout": nn.Identity}
    targets = ("attention.query_key_value",)
    causal = True
    stages = (("attention.query_key_value",), ("attention.dense",), ("mlp.dense_h_to_4h",), ("mlp.dense_4h_to_h",))
    buffers = ("attention.bias", "attention.masked_bias", "rotary_emb.inv_freq")
    options = ("partial_rotary_factor", "rotary_pct", "rotary_emb_base")

    def parallel(self, config: PreTrainedConfig) -> bool:
        """The value of ``use_parallel_residual``; without it, the feed-forward reads the attention's sum."""
        return bool(config.use_parallel_residual)
