"""Architectures that no cut does justice to, and why.

ALBERT runs one block again and again: its twelve blocks are one set of weights. An adapter belongs to a weight, so that
of a block below the cut would be that of all blocks, on the server as well. With an adapter for each run of the block
it would be the model without what makes it ALBERT: merged, it has twelve times the weights, and PEFT has no name for
such adapters. And either half holds every weight of the other's blocks, so that a cut saves a client no memory.

In T5 and its like a decoder looks at the encoder's output in every block. A cut in the encoder would need tasks with a
text to read and a text to write, and T5 makes the relative positions of all blocks in the first, which a server half
has not.
"""

from __future__ import annotations

from atlas_cli.errors import ConfigError

TWO_STACKS = (
    "an encoder reads and a decoder, each of whose blocks looks at what the encoder gives, writes; take a decoder "
    "(llama, qwen3) to write text, or an encoder (modernbert, deberta-v2) to tell texts apart"
)
_REFUSED = {
    "albert": (
        "its blocks are one block's weights, run again and again: an adapter of a block on the client would be one of "
        "the server's, too; take a model whose blocks have weights of their own (electra, bert, deberta-v2)"
    ),
    **dict.fromkeys(
        ("t5", "mt5", "umt5", "longt5", "bart", "mbart", "pegasus", "marian", "m2m_100", "led", "blenderbot"),
        TWO_STACKS,
    ),
}


def require_cut(model_type: object) -> None:
    """Refuse an architecture that cannot be cut.

    Raises:
        ConfigError: says why, and what to take.
    """
    why = _REFUSED.get(model_type) if isinstance(model_type, str) else None
    if why is not None:
        raise ConfigError(f"architecture {model_type!r} is not supported: {why}", key="model.name")
