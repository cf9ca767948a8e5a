"""DistilBERT: BERT's scheme under other names."""

from atlas_cli.models.families._base import Family, PassEmbeddings

FAMILY = Family(
    model_types=("distilbert",),
    blocks="transformer.layer",
    final_norm=None,
    input_side={"embeddings": PassEmbeddings},
    targets=("attention.q_lin", "attention.v_lin"),
    causal=False,
)
