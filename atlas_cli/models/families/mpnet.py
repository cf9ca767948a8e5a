"""MPNet: BERT's scheme, with a bias by relative position that the encoder holds and all its blocks add."""

from collections.abc import Iterator

from transformers import PreTrainedConfig

from atlas_cli.models.families.contract import BaseFamily, PassEmbeddings

_PADDING = 1  # transformers' class counts positions from this token on, whatever the config says
_BUCKETS = 32  # and has so many relative positions


class Family(BaseFamily):
    """Both halves hold the bias, and compute it from places in the padded batch.

    So attention takes no rows of real tokens: clients are computed one by one, padded.
    """

    model_types = ("mpnet",)
    blocks = "encoder.layer"
    final_norm = None
    input_side = {"embeddings": PassEmbeddings}
    targets = ("attention.attn.q", "attention.attn.v")
    causal = False
    packs = False
    stages = (
        ("attention.attn.q", "attention.attn.k", "attention.attn.v"),
        ("attention.attn.o",),
        ("intermediate.dense",),
        ("output.dense",),
    )
    ends_in_norm = True
    unused = ("pooler",)
    buffers = ("position_ids",)

    def uncovered(self, config: PreTrainedConfig) -> Iterator[tuple[str, str]]:
        """A table of fewer relative positions than are looked up in it is not covered."""
        if config.relative_attention_num_buckets < _BUCKETS:
            yield "relative_attention_num_buckets", f"is below {_BUCKETS}, the number that transformers looks up"

    def positions(self, config: PreTrainedConfig) -> int:
        """The number of positions, of which those up to the padding token are not used."""
        return int(config.max_position_embeddings) - _PADDING - 1
