"""DistilBERT: BERT's scheme under other names."""

from atlas_cli.models.families.contract import BaseFamily, PassEmbeddings


class Family(BaseFamily):
    """DistilBERT has no segment embeddings."""

    model_types = ("distilbert",)
    blocks = "transformer.layer"
    final_norm = None
    input_side = {"embeddings": PassEmbeddings}
    targets = ("attention.q_lin", "attention.v_lin")
    causal = False
    stages = (
        ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        ("attention.out_lin",),
        ("ffn.lin1",),
        ("ffn.lin2",),
    )
    ends_in_norm = True
    buffers = ("position_ids",)
