"""ModernBERT: local and global attention take turns, with rotary positions of two bases; norms come before."""

from collections.abc import Iterator

from transformers import PreTrainedConfig

from atlas_cli.models.families.contract import BaseFamily, PassEmbeddings


class Family(BaseFamily):
    """No linear layer and no norm has a bias by default, and the first block has no norm before its attention.

    Local attention sees ``local_attention // 2`` tokens to either side. transformers unpads batches for no attention
    that atlas uses; atlas packs them itself.
    """

    model_types = ("modernbert",)
    blocks = "layers"
    final_norm = "final_norm"
    input_side = {"embeddings": PassEmbeddings}
    targets = ("attn.Wqkv",)
    causal = False
    stages = (("attn.Wqkv",), ("attn.Wo",), ("mlp.Wi",), ("mlp.Wo",))
    options = ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta", "layer_norm_eps")

    def uncovered(self, config: PreTrainedConfig) -> Iterator[tuple[str, str]]:
        """A second name of the norms' epsilon that has another value is not covered."""
        if getattr(config, "layer_norm_eps", config.norm_eps) != config.norm_eps:
            yield "layer_norm_eps", f"is not the {config.norm_eps} of norm_eps, which transformers takes; remove it"
