"""DeBERTa-v3: attention by content and by relative position, whose embeddings the encoder holds for all its blocks."""

from collections.abc import Iterator

from torch import Tensor, nn
from transformers import PreTrainedConfig

from atlas_cli.models.families.contract import BaseFamily, PassEmbeddings


class NoBlock(nn.Module):
    """Gives back what it is given, as a block would its output."""

    def forward(self, hidden: Tensor, *_: object, **__: object) -> tuple[Tensor, None]:
        """Return the activations."""
        return hidden, None


class Family(BaseFamily):
    """The query and the key layer of a block make those of the relative positions, too.

    So an adapter there sees the relative positions once a batch, besides the tokens, and ``privacy.examples``, which
    needs the gradient of each text by itself, takes other targets. Both halves hold the embeddings of relative
    positions, and their norm. Attention takes no rows of real tokens: clients are computed one by one, padded.
    """

    model_types = ("deberta-v2",)
    blocks = "encoder.layer"
    final_norm = None
    input_side = {"embeddings": PassEmbeddings}
    targets = ("attention.self.query_proj", "attention.self.value_proj")
    causal = False
    packs = False
    stages = (
        ("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"),
        ("attention.output.dense",),
        ("intermediate.dense",),
        ("output.dense",),
    )
    ends_in_norm = True
    no_blocks = (NoBlock,)
    keeps_outputs = True
    buffers = ("position_ids",)
    options = ("position_buckets", "norm_rel_ebd", "share_att_key", "conv_kernel_size", "type_vocab_size")

    def uncovered(self, config: PreTrainedConfig) -> Iterator[tuple[str, str]]:
        """What other models of this type have, and DeBERTa-v3 has not, is not covered."""
        if not config.relative_attention:
            yield "relative_attention", "is needed: attention by content alone is not covered"
        elif sorted(config.pos_att_type or []) != ["c2p", "p2c"]:
            yield "pos_att_type", "is not both p2c and c2p; attention by one of them is not covered"
        elif not getattr(config, "share_att_key", False):
            yield "share_att_key", "gives relative positions layers of their own, which is not covered"
        if getattr(config, "conv_kernel_size", 0) > 0:
            yield (
                "conv_kernel_size",
                "puts a convolution after the first block (deberta-v2-xlarge), which is not covered",
            )

    def relative_positions(self, config: PreTrainedConfig) -> int:
        """Two for each bucket, or without buckets for each distance: one to either side."""
        distances = [
            getattr(config, "position_buckets", -1),
            config.max_relative_positions,
            config.max_position_embeddings,
        ]
        return 2 * next(int(number) for number in distances if number > 0)
