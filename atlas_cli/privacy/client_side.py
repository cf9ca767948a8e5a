"""The mechanisms that act inside a client's local step, in the order in which a step meets them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from atlas_cli.models.adapters.lora import AdapterSet
from atlas_cli.privacy.mechanisms import nopeek
from atlas_cli.privacy.mechanisms.examples import ExampleNoise
from atlas_cli.privacy.mechanisms.mask_gradients import PaddingCover
from atlas_cli.tasks.contract import BaseTask
from atlas_cli.wire.codec import Codec


@dataclass
class AtClient:
    """What a client does to protect its data; nothing by default.

    Attributes:
        activations: what is sent instead of activations (B, T, D), by them, round and step.
        codec: how messages of a step cross the wire.
        nopeek_weight: of the distance correlation in the loss.
    """

    examples: ExampleNoise | None = None
    activations: Callable[..., Tensor] | None = None
    padding: PaddingCover | None = None
    codec: Codec | None = None
    nopeek_weight: float | None = None
    _penalty: Tensor | None = field(default=None, repr=False)

    def begin(self, examples: Tensor | None) -> None:
        """Say of which example each sequence of the next batch is, (B,); None: each is one of its own."""
        if self.examples is not None:
            self.examples.begin(examples)

    def recording(self, base: nn.Module, adapters: AdapterSet) -> AbstractContextManager[None]:
        """Around the forward, adapters attached."""
        return nullcontext() if self.examples is None else self.examples.recording(base, adapters)

    def sent(self, activations: Tensor, mask: Tensor, embedded: Callable[[], Tensor], *now: int) -> Tensor:
        """What is sent instead of ``activations``, differentiable.

        Args:
            mask: (B, T).
            embedded: embeddings of the tokens (B, T, D).
            now: round and step.
        """
        if self.nopeek_weight is not None:
            self._penalty = nopeek.penalty(embedded(), activations, mask, self.nopeek_weight)
        if self.activations is None:
            return activations
        # hidden states of padding depend on the words, and are more vectors than the account has tokens
        return self.activations(activations * mask.unsqueeze(-1).to(activations.dtype), *now)

    def loss(
        self, head: nn.Module, task: BaseTask, features: Tensor, mask: Tensor | None, labels: Tensor
    ) -> tuple[Tensor, int]:
        """Mean loss at the client's own head, and over how many it is the mean."""
        if self.examples is None or mask is None:
            return task.loss(head(features, mask), labels)
        return self.examples.head_loss(head, task, features, mask, labels)

    def backward(self, activations: Tensor, gradients: Tensor, mask: Tensor | None) -> None:
        """Back-propagate from the cut."""
        penalty, self._penalty = self._penalty, None
        if self.padding is not None and mask is not None:
            gradients = self.padding.uncover(gradients, mask)
        if penalty is None:
            activations.backward(gradients)
        else:
            torch.autograd.backward([activations, penalty], [gradients, None])

    def privatise(self, parameters: list[nn.Parameter], adapters: AdapterSet, now: tuple[int, int]) -> None:
        """With DP-SGD, make the gradients of the last batch, or of an empty one, the noisy mean of clipped ones."""
        if self.examples is not None:
            self.examples.privatise(parameters, adapters, *now)
