"""What a family file says about the modules of its models. One file a family in this folder; it defines ``FAMILY``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


class NoPositions(nn.Module):
    """Stands for a position embedding on the server half: positions were added on the client, so adds nothing."""

    def forward(self, position_ids: Tensor) -> _Zero:
        """Nothing to add, whatever the positions."""
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
        """What was handed on, unchanged."""
        found = inputs_embeds if inputs_embeds is not None else next(a for a in args if isinstance(a, Tensor))
        assert input_ids is None
        return found


@dataclass(frozen=True)
class TrainedBlock:
    """One block of frozen weights in training, as a family's formula of saved bytes needs it.

    Attributes:
        config: the Hugging Face config.
        batch: B; tokens: T, padding included.
        element: bytes of an element of the frozen weights.
        padded: whether a padding mask is passed (a batch without padding needs none).
        fused_gelu: whether the tanh GELU runs as one operation.
        ranks: of the adapters on the family's default targets; empty where the block has none.
        gradient_below: whether its input needs a gradient; not in the lowest block with adapters of a client.
        lowest: whether it is the lowest block of its half that saves anything.
    """

    config: Any
    batch: int
    tokens: int
    element: int
    padded: bool
    fused_gelu: bool
    ranks: tuple[int, ...]
    gradient_below: bool
    lowest: bool

    @property
    def positions(self) -> int:
        """N: tokens of the batch."""
        return self.batch * self.tokens

    def adapters(self, width: int, *, norm_keeps_input: bool = True) -> int:
        """Inputs of B, in float32, and of A: the layer's own, or, where autograd keeps a norm, that norm's.

        Args:
            norm_keeps_input: whether a norm of this half made the layer's input, and saves what it was given anyway.
        """
        if not self.ranks:
            return 0
        kept = not self.gradient_below or not norm_keeps_input
        return self.element * self.positions * kept * width + 4 * self.positions * sum(self.ranks)

    def attention(self, d_query: int, d_key_value: int, heads: int) -> int:
        """Query, key, value, output and log-sum-exp of SDPA, and the mask (B, 1, T, T) as it adds it."""
        mask = self.element * self.batch * self.tokens**2 if self.padded else 0
        return self.element * self.positions * 2 * (d_query + d_key_value) + 4 * self.positions * heads + mask

    def layer_norm(self, width: int) -> int:
        """Input, mean and reciprocal deviation."""
        return self.element * self.positions * (width + 2)


@dataclass(frozen=True)
class Family:
    """Where things are in a base model (paths are relative to it).

    Attributes:
        model_types: ``config.model_type`` values that this file covers.
        blocks: path of the list of blocks.
        final_norm: path of the norm after the last block, if there is one.
        input_side: server-half replacements of what comes before the blocks, as ``{path: module factory}``.
        targets: linear layers of a block that LoRA adapts by default (ends of their path in the block).
        stages: all linear layers of a block, by the order in which they run: those that make queries, keys and values;
            the attention's output; the feed-forward's first; its last. FLOPs, and with them simulated time, follow.
        ends_in_norm: whether a norm comes after the last linear layer of a block.
        causal: decoder (language modelling, last-token pooling) or encoder (mean pooling).
        unused: attributes to drop after loading, e.g. a pooler that no atlas head reads.
        saved_bytes: bytes that a block saves for backward; None from it where the formula does not hold, and no
            function where there is no formula: then memory is predicted by a trace.
    """

    model_types: tuple[str, ...]
    blocks: str
    final_norm: str | None
    input_side: dict[str, Callable[[], nn.Module]]
    targets: tuple[str, ...]
    causal: bool
    stages: tuple[tuple[str, ...], ...] = field(default=())
    ends_in_norm: bool = False
    unused: tuple[str, ...] = field(default=())
    saved_bytes: Callable[[TrainedBlock], int | None] | None = None
