"""What a family file says about the modules of its models. One file a family in this folder; it defines ``FAMILY``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn


class NoPositions(nn.Module):
    """Stands for a position embedding on the server half: positions were added on the client, so adds nothing."""

    def forward(self, position_ids: Tensor) -> _Zero:
        return _Zero()


class _Zero(float):
    # GPT-2 adds ``position_embeds.to(device)``; adding the number 0.0 leaves every element as it was
    def to(self, *_: object) -> _Zero:
        return self


class PassEmbeddings(nn.Module):
    """Stands for a whole input side (embeddings, LayerNorm, dropout) on the server half.

    Gives activations back unchanged.
    """

    def forward(
        self,
        input_ids: Tensor | None = None,
        *args: object,
        inputs_embeds: Tensor | None = None,
        **kwargs: object,
    ) -> Tensor:
        found = inputs_embeds if inputs_embeds is not None else next(a for a in args if isinstance(a, Tensor))
        assert input_ids is None
        return found


@dataclass(frozen=True)
class Family:
    """Where things are in a base model (paths are relative to it).

    Attributes:
        model_types: ``config.model_type`` values that this file covers.
        blocks: path of the list of blocks.
        final_norm: path of the norm after the last block, if there is one.
        input_side: server-half replacements of what comes before the blocks, as ``{path: module factory}``.
        targets: linear layers of a block that LoRA adapts by default (ends of their path in the block).
        causal: decoder (language modelling, last-token pooling) or encoder (mean pooling).
        unused: attributes to drop after loading, e.g. a pooler that no atlas head reads.
    """

    model_types: tuple[str, ...]
    blocks: str
    final_norm: str | None
    input_side: dict[str, Callable[[], nn.Module]]
    targets: tuple[str, ...]
    causal: bool
    unused: tuple[str, ...] = field(default=())
