"""OPT: learned positions counted from the padding mask; norms before attention and feed-forward, which has a ReLU."""

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedConfig

from atlas_cli.models.families.contract import BaseFamily, NoPositions


class Family(BaseFamily):
    """All sizes but opt-350m, which projects its embeddings and has its norms after attention and feed-forward."""

    model_types = ("opt",)
    blocks = "decoder.layers"
    final_norm = "decoder.final_layer_norm"
    input_side = {"decoder.embed_tokens": nn.Identity, "decoder.embed_positions": NoPositions}
    targets = ("self_attn.q_proj", "self_attn.v_proj")
    causal = True
    stages = (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("self_attn.out_proj",), ("fc1",), ("fc2",))

    def uncovered(self, config: PreTrainedConfig) -> Iterator[tuple[str, str]]:
        """The options of opt-350m, and of checkpoints fine-tuned before the final norm was fixed, are not covered."""
        if config.word_embed_proj_dim != config.hidden_size:
            yield (
                "word_embed_proj_dim",
                f"is not hidden_size {config.hidden_size}: projections between embeddings and blocks are not covered",
            )
        if not config.do_layer_norm_before:
            yield "do_layer_norm_before", "puts norms after attention and feed-forward, which is not covered"
        if config._remove_final_layer_norm:
            yield "_remove_final_layer_norm", "leaves the final norm out, which is not covered"
