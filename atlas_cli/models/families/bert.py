"""BERT and RoBERTa: embeddings with their LayerNorm come before the blocks; there is no final norm."""

from atlas_cli.models.families._base import Family, PassEmbeddings

FAMILY = Family(
    model_types=("bert", "roberta", "xlm-roberta"),
    blocks="encoder.layer",
    final_norm=None,
    input_side={"embeddings": PassEmbeddings},
    targets=("attention.self.query", "attention.self.value"),
    causal=False,
    unused=("pooler",),
)
