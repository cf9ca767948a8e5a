"""Gemma 3 for text: its embedding scales itself; local and global blocks have rotary tables of their own."""

from collections.abc import Iterator

from transformers import PreTrainedConfig

from atlas_cli.models.families import llama


class Family(llama.Family):
    """Four norms a block, norms of queries and keys. Images, and so the model type ``gemma3``, are not covered."""

    model_types = ("gemma3_text",)
    ends_in_norm = True
    buffers = ("rotary_emb.inv_freq", "rotary_emb_local.inv_freq")
    options = ("sliding_window_pattern", "rope_local_base_freq")

    def uncovered(self, config: PreTrainedConfig) -> Iterator[tuple[str, str]]:
        """A bound of attention scores, which transformers' class does not compute, is not covered."""
        if config.attn_logit_softcapping is not None:
            yield "attn_logit_softcapping", "is not computed by transformers' Gemma 3"
