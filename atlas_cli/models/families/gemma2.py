"""Gemma 2: bounded attention scores and logits, an embedding that scales itself, four norms a block."""

from atlas_cli.models.families import llama


class Family(llama.Family):
    """No fused attention bounds scores, so it is written out, and texts do not stand in one row of real tokens."""

    model_types = ("gemma2",)
    packs = False
    ends_in_norm = True
