"""Bytes of the messages of one step through the split, from shapes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from atlas_cli.wire.messages import Activations, FeatureGradients, Features, Gradients, HiddenStates, Rows
from atlas_cli.wire.step_codecs import StepCodecs


@dataclass(frozen=True)
class StepBytes:
    """The serialised bytes and the numbers of messages that a client and the server exchange in one step."""

    up: int
    down: int
    messages_up: int
    messages_down: int


def step_bytes(
    hf_config: PreTrainedConfig,
    batch: int,
    tokens: int,
    dtype: str = "float32",
    *,
    labels: Tensor | None,
    features: str | None = None,
    codecs: StepCodecs | None = None,
    frozen: bool = False,
    answered: bool = True,
) -> StepBytes:
    """Bytes of one step, equal to the ledger's for batches of this size; they do not depend on the cut.

    Args:
        dtype: the type of the activations at the cut and of their gradients.
        labels: those of a batch, as they are sent; None: a U-shaped split with four messages and no labels.
        features: the type of the server half's output in a U-shaped split; default: ``dtype``.
        codecs: of the client's messages; None: they are sent as they are.
        frozen: of a client that does not learn, and sends texts that the server does not have yet, one after another.
        answered: whether a gradient comes back.
    """
    size, element = int(hf_config.hidden_size), getattr(torch, dtype)
    if frozen:
        assert labels is not None, "refused with labels: client"
        return StepBytes(frozen_step_bytes(size, batch, [tokens] * batch, dtype, labels, codecs), 0, 2, 0)
    hidden = torch.empty(batch, tokens, size, dtype=element, device="meta")

    def sent(message: HiddenStates) -> int:
        return (message if codecs is None else codecs.blank(message)).bytes

    mask = torch.empty(batch, tokens, dtype=torch.bool, device="meta")
    up, down = Activations("", hidden, mask, labels), sent(Gradients("", hidden))
    if not answered:
        return StepBytes(sent(up), 0, 1, 0)
    if labels is not None:
        return StepBytes(sent(up), down, 1, 1)
    above = hidden if features is None else hidden.to(getattr(torch, features))
    up_again = sent(FeatureGradients("", above, torch.empty((), dtype=torch.int64, device="meta")))
    return StepBytes(sent(up) + up_again, down + sent(Features("", above)), 2, 2)


def frozen_step_bytes(
    hidden_size: int,
    batch: int,
    lengths: Sequence[int],
    dtype: str,
    labels: Tensor,
    codecs: StepCodecs | None,
) -> int:
    """Bytes up of a step of a frozen client.

    Args:
        batch: texts in it; ``lengths``: of those that the server does not have yet, and ``labels`` theirs.
    """
    compact = codecs is not None and codecs.compact
    size = Rows("", torch.empty(batch, dtype=torch.int64, device="meta"), compact=compact).bytes
    if lengths:
        hidden = torch.empty(1, sum(lengths), hidden_size, dtype=getattr(torch, dtype), device="meta")
        numbers = torch.empty(len(lengths), dtype=torch.int64, device="meta")
        texts = Activations("", hidden, labels=labels, lengths=numbers)
        size += (texts if codecs is None else codecs.blank(texts)).bytes
    return size
