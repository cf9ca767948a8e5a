"""The contract of a model family. Each has a file in this folder with a class named ``Family``.

A family is a subclass of ``BaseFamily``, which says where things are. Attributes without a value there must be given.
``atlas_cli.testing.families`` tests a family against Hugging Face's own models, in a line of its author's tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar

from torch import Tensor, nn
from transformers import PreTrainedConfig


class NoPositions(nn.Module):
    """Replaces a position embedding on the server half: the client added the positions, so this adds nothing."""

    def forward(self, *_: object, **__: object) -> _Zero:
        """Return 0 for every position."""
        return _Zero()


class _Zero(float):
    # decoders add ``position_embeds.to(device)``; adding the number 0.0 leaves every element as it was
    def to(self, *_: object) -> _Zero:
        return self


class PassEmbeddings(nn.Module):
    """Replaces a whole input side (embeddings, LayerNorm, dropout) on the server half.

    It returns activations unchanged.
    """

    def forward(
        self,
        input_ids: Tensor | None = None,
        *args: object,
        inputs_embeds: Tensor | None = None,
        **kwargs: object,
    ) -> Tensor:
        """Return the activations, which are given by name or by position."""
        found = inputs_embeds if inputs_embeds is not None else next(a for a in args if isinstance(a, Tensor))
        assert input_ids is None
        return found


class BaseFamily:
    """Where the parts of a base model are, which is the one that ``AutoModel`` gives; paths are relative to it.

    Attributes:
        model_types: values of ``config.model_type`` that this file covers.
        blocks: path of the list of blocks.
        final_norm: path of the norm after the last block, if there is one.
        input_side: all that the base does before its first block, as ``{path: factory of what stands for it on the
            server half}``, which is fed through ``inputs_embeds``.
        targets: linear layers of a block that LoRA adapts by default (ends of their path in the block).
        stages: all linear layers of a block, by the order in which they run: those that make queries, keys and values;
            the attention's output; the feed-forward's first; its last. FLOPs, and with them simulated time, follow.
            A router and experts are named by their parameters (``mlp.gate.weight``, ``mlp.experts.down_proj``).
        ends_in_norm: whether what comes after the last linear layer of a block needs its output in the backward, as a
            norm does, or the router's weights of experts.
        causal: decoder (language modelling, last-token pooling) or encoder (mean pooling).
        packs: whether blocks call attention through transformers' attention interface and know places by
            ``position_ids`` alone, so that texts can stand in one row of real tokens. Where not, each client is
            computed by itself, padded.
        no_blocks: what stands for the blocks of a half that has none, where the model does not run without one.
        keeps_outputs: whether the base's forward has the outputs of all blocks until its end, asked for or not.
        unused: attributes of the base to drop after loading, e.g. a pooler that no atlas head reads.
        buffers: ends of the names of what old checkpoints hold and transformers computes anew (causal masks, positions,
            rotary frequencies); compared where the model has it, too.
        by_shape: for a model without a family file, what its modules show, in words; else empty.
        options: names in config.json that the model computes although its config class has no such field, or although
            atlas refuses them elsewhere (``models.files.config_options.REFUSED``).
    """

    model_types: ClassVar[tuple[str, ...]]
    blocks: ClassVar[str]
    input_side: ClassVar[Mapping[str, Callable[[], nn.Module]]]
    targets: ClassVar[tuple[str, ...]]
    stages: ClassVar[tuple[tuple[str, ...], ...]]
    causal: ClassVar[bool]
    packs: ClassVar[bool] = True
    final_norm: ClassVar[str | None] = None
    ends_in_norm: ClassVar[bool] = False
    no_blocks: ClassVar[tuple[Callable[[], nn.Module], ...]] = ()
    keeps_outputs: ClassVar[bool] = False
    unused: ClassVar[tuple[str, ...]] = ()
    buffers: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[tuple[str, ...]] = ()
    by_shape: ClassVar[str] = ""

    def uncovered(self, config: PreTrainedConfig) -> Iterable[tuple[str, str]]:
        """The options of a Hugging Face config that the family does not cover, each with why its value is refused.

        It is asked before any weight is loaded. The message is ``<file>: <option>: <value> <why>``.
        """
        return ()

    def parallel(self, config: PreTrainedConfig) -> bool:
        """Whether the feed-forward reads the block's input, beside the attention instead of after it."""
        return False

    def fused_attention(self, config: PreTrainedConfig) -> bool:
        """Whether attention is one operation, whose backward computes scores anew; else it is plain products."""
        return self.packs

    def relative_positions(self, config: PreTrainedConfig) -> int:
        """The number of relative positions of which the query and the key layer of a block make queries and keys too.

        Adapters on these layers then see the positions once a batch, besides its tokens.
        """
        return 0

    def positions(self, config: PreTrainedConfig) -> int | None:
        """The largest number of tokens in a text; None: there is no limit."""
        found: int | None = getattr(config, "max_position_embeddings", None)
        return found
