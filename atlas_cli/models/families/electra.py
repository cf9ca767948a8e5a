"""ELECTRA: BERT's scheme, with embeddings that a linear layer brings to the blocks' width where theirs is another."""

from torch import nn

from atlas_cli.models.families.contract import BaseFamily, PassEmbeddings


class Family(BaseFamily):
    """Discriminators and generators of all sizes."""

    model_types = ("electra",)
    blocks = "encoder.layer"
    final_norm = None
    input_side = {"embeddings": PassEmbeddings, "embeddings_project": nn.Identity}
    targets = ("attention.self.query", "attention.self.value")
    causal = False
    stages = (
        ("attention.self.query", "attention.self.key", "attention.self.value"),
        ("attention.output.dense",),
        ("intermediate.dense",),
        ("output.dense",),
    )
    ends_in_norm = True
    buffers = ("position_ids",)
