"""BERT and RoBERTa: embeddings with their LayerNorm come before the blocks; there is no final norm."""

from atlas_cli.models.families.contract import Family, PassEmbeddings, TrainedBlock


def saved_bytes(block: TrainedBlock) -> int | None:
    """Norms come after attention and feed-forward: what a block is given comes from the norm of the one below."""
    config = block.config
    if config.hidden_act != "gelu" or getattr(config, "is_decoder", False):
        return None
    width = config.hidden_size
    return (
        block.adapters(width, norm_keeps_input=not block.lowest)
        + block.attention(width, width, config.num_attention_heads)
        + 2 * block.layer_norm(width)
        + block.element * block.positions * config.intermediate_size
    )


FAMILY = Family(
    model_types=("bert", "roberta", "xlm-roberta"),
    blocks="encoder.layer",
    final_norm=None,
    input_side={"embeddings": PassEmbeddings},
    targets=("attention.self.query", "attention.self.value"),
    causal=False,
    stages=(
        ("attention.self.query", "attention.self.key", "attention.self.value"),
        ("attention.output.dense",),
        ("intermediate.dense",),
        ("output.dense",),
    ),
    ends_in_norm=True,
    unused=("pooler",),
    saved_bytes=saved_bytes,
)
