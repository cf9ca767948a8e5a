"""BERT and RoBERTa: embeddings with their LayerNorm come before the blocks; there is no final norm."""

from collections.abc import Iterator

from transformers import PreTrainedConfig

from atlas_cli.models.families.contract import BaseFamily, PassEmbeddings


class Family(BaseFamily):
    """All three have one module tree; RoBERTa and XLM-RoBERTa count positions from their padding token on."""

    model_types = ("bert", "roberta", "xlm-roberta")
    blocks = "encoder.layer"
    final_norm = None
    input_side = {"embeddings": PassEmbeddings}
    targets = ("attention.self.query", "attention.self.value")
    causal = False
    stages = (
        ("attention.self.query", "attention.self.key", "attention.self.value"),
        ("attention.output.dense",),
        ("intermediate.dense",),
        ("output.dense",),
    )
    ends_in_norm = True
    unused = ("pooler",)
    buffers = ("position_ids",)

    def uncovered(self, config: PreTrainedConfig) -> Iterator[tuple[str, str]]:
        """A config without a padding token is not covered if positions are counted from it."""
        if config.pad_token_id is None and config.model_type != "bert":
            yield "pad_token_id", "is needed: positions are counted from it on"

    def positions(self, config: PreTrainedConfig) -> int:
        """The number of positions, of which those up to the padding token are not used."""
        used = config.pad_token_id + 1 if config.model_type != "bert" else 0
        return int(config.max_position_embeddings) - used
