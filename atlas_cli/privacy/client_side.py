"""The mechanisms that act inside a client's local step, in the order in which a step meets them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor, nn

from atlas_cli.models.adapters.lora import AdapterSet
from atlas_cli.models.denoiser import AtTheCut, denoised
from atlas_cli.privacy.mechanisms.contract import BaseMechanism, penalty_of, sent_by
from atlas_cli.privacy.mechanisms.examples import ExampleNoise
from atlas_cli.privacy.mechanisms.mask_gradients import PaddingCover
from atlas_cli.privacy.mechanisms.mid import BottleneckNoise
from atlas_cli.tasks.contract import BaseTask


@dataclass
class ClientProtection:
    """Protects the data of one client; by default it does nothing.

    Attributes:
        activations: computes what is sent instead of activations (B, T, D), from them, the round and the step.
        bottleneck: the noise of the bottleneck in the client's head, before all others.
        mechanisms: those that act on activations before the noise of ``activations``, in their order.
        denoises: whether the head has a denoiser, which reads what the client half gave, and what was added to it.
    """

    examples: ExampleNoise | None = None
    activations: Callable[..., Tensor] | None = None
    bottleneck: BottleneckNoise | None = None
    padding: PaddingCover | None = None
    mechanisms: tuple[BaseMechanism, ...] = ()
    denoises: bool = False
    _cut: AtTheCut | None = field(default=None, repr=False)
    _penalty: Tensor | None = field(default=None, repr=False)

    def begin(self, examples: Tensor | None) -> None:
        """Set the example (B,) that each sequence of the next batch belongs to; None: each is an example of its own."""
        if self.examples is not None:
            self.examples.begin(examples)

    def recording(self, base: nn.Module, adapters: AdapterSet) -> AbstractContextManager[None]:
        """The context in which the forward runs, with adapters attached."""
        return nullcontext() if self.examples is None else self.examples.recording(base, adapters)

    def sent(
        self,
        activations: Tensor,
        mask: Tensor,
        embedded: Callable[[], Tensor],
        head: nn.Module | None,
        number: int,
        step: int,
    ) -> Tensor:
        """The differentiable tensor that is sent instead of ``activations``.

        Args:
            mask: (B, T).
            embedded: computes the embeddings of the tokens (B, T, D).
            head: of the client, if it has one.
            number: of the round.
        """
        own = activations
        penalties = [penalty_of(m, embedded, activations, mask) for m in self.mechanisms]
        if self.bottleneck is not None:
            assert head is not None, "privacy.mid needs labels: client"
            activations, divergence = self.bottleneck(head, activations, mask, number, step)
            penalties.append(divergence)
        if given := [penalty for penalty in penalties if penalty is not None]:
            self._penalty = reduce(torch.add, given)
        for mechanism in self.mechanisms:
            activations = sent_by(mechanism, activations, mask, (number, step))
        if self.activations is None:
            return activations
        # hidden states of padding depend on the words, and are more vectors than the account has tokens
        real = activations * mask.unsqueeze(-1).to(activations.dtype)
        noisy = self.activations(real, number, step)
        if self.denoises:
            clean = real if own is activations else own.detach() * mask.unsqueeze(-1).to(own.dtype)
            self._cut = AtTheCut.of(noisy, clean)
        return noisy

    def loss(
        self, head: nn.Module, task: BaseTask, features: Tensor, mask: Tensor | None, labels: Tensor
    ) -> tuple[Tensor, int]:
        """The mean loss at the client's own head, and the number of terms in the mean."""
        cut, self._cut = self._cut, None
        features = denoised(head, features, cut)
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
        """With DP-SGD, replace the gradients of the last batch (it may be empty) by the noisy mean of clipped ones."""
        if self.examples is not None:
            self.examples.privatise(parameters, adapters, *now)
