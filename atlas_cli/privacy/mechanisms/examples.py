"""DP-SGD on what a client trains (Abadi et al., 1607.00133): example-level differential privacy.

A local step takes a Poisson sample of the client's examples, each with probability q = batch_size / n, clips each
example's gradient g_i over all that the client trains to norm C, and steps with

    (sum_i g_i min(1, C / |g_i|) + N(0, (z C)^2)) / batch_size

An empty sample steps with noise alone; the denominator is the expected size. A loss is the mean over examples of each
one's own mean loss. An example is a row with all sequences that are made of it: the windows of a question are drawn
together, their loss is one mean, and its gradient is clipped as one. Gradients of single examples are exact and cost
one backward: with x (B, T, d_in) what an adapted layer got and G (B, T, d_out) the gradient of its output,

    grad_i B = s sum_t G_it (A x_it)^T,  grad_i A = s sum_t (B^T G_it) x_it^T

and the head runs once a sequence. Neighbours differ by one example of one client. Epsilon is against those who see
adapters and heads, but not activations: these show who is in a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from atlas_cli.config.schema.privacy import NoiseConfig
from atlas_cli.double import double
from atlas_cli.models.adapters.lora import AdapterSet
from atlas_cli.privacy.account.norms import Norms, ratio
from atlas_cli.privacy.mechanisms.contract import BaseMechanism
from atlas_cli.seeding import torch_generator
from atlas_cli.tasks.contract import BaseTask


class Mechanism(BaseMechanism):
    """Trains with DP-SGD: example gradients are clipped and their sum is perturbed."""

    channel = "updates"
    unit = "example (a row with all its windows)"
    protects = (
        "a training example with all its windows, from those who get adapters and heads; activations still go to the"
        " server"
    )
    Options = NoiseConfig


class ExampleNoise:
    """Computes the clipped and noisy gradients of one client's examples.

    Args:
        clip: C.
        multiplier: z.
        batch_size: the expected size of a sample.
        seed: of the run.
        client: the client's name.

    Attributes:
        norms: the norms (B,) of the gradients of the last sample's examples before clipping.
    """

    def __init__(self, clip: float, multiplier: float, batch_size: int, seed: int, client: str) -> None:
        self.clip, self.multiplier, self.batch_size = clip, multiplier, batch_size
        self.seed, self.client = seed, client
        self.norms: Tensor | None = None
        self._seen: list[tuple[Tensor, float, float, float]] = []  # by step: norms; squares of signal, noise, sum
        self._inputs: dict[str, Tensor] = {}
        self._output_gradients: dict[str, Tensor] = {}
        self._head: dict[nn.Parameter, Tensor] = {}
        self._examples: Tensor | None = None

    def begin(self, examples: Tensor | None) -> None:
        """Set the example (B,) that each sequence of the next batch belongs to; None: each is an example of its own."""
        self._examples = examples

    @contextmanager
    def recording(self, base: nn.Module, adapters: AdapterSet) -> Iterator[None]:
        """Inside the block, record the inputs of adapted layers and, after a backward, the gradients of their outputs.

        The adapters must be attached already, because a later hook sees their outputs added.
        """
        self._inputs, self._output_gradients = {}, {}
        with ExitStack() as stack:
            for path in adapters.adapters:
                stack.callback(base.get_submodule(path).register_forward_hook(self._keeping(path)).remove)
            yield

    def _keeping(self, path: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if path in self._inputs:
                raise ValueError(f"{path} is computed twice in a pass: its gradients of single examples are not known")
            self._inputs[path] = args[0].detach()
            output.register_hook(lambda gradient: self._output_gradients.__setitem__(path, gradient))

        return keep

    def head_loss(
        self, head: nn.Module, task: BaseTask, features: Tensor, mask: Tensor, labels: Tensor
    ) -> tuple[Tensor, int]:
        """The mean over examples of each one's mean loss, and their number; the head's gradients are kept by example.

        Args:
            features: (B, T, D), a leaf; mask: (B, T).
        """
        trained = [p for p in head.parameters() if p.requires_grad]
        losses, found = [], []
        for i in range(len(features)):
            row = slice(i, i + 1)
            loss, _ = task.loss(head(features[row], mask[row]), labels[row])
            losses.append(loss)
            found.append(torch.autograd.grad(loss, trained, retain_graph=True) if trained else ())
        owners_B, shares_B, count = self._owners(len(losses), features.device)
        self._head = {
            p: _summed(torch.einsum("b,b...->b...", shares_B.to(p.dtype), torch.stack([g[j] for g in found])), owners_B)
            for j, p in enumerate(trained)
        }
        return (torch.stack(losses) * shares_B).sum() / count, count

    def _owners(self, sequences: int, device: torch.device) -> tuple[Tensor, Tensor, int]:
        """Of each sequence the number of its example and its share of that one's loss, (B,) each; and how many.

        Raises:
            ValueError: ``begin`` announced another number of sequences.
        """
        if self._examples is None:
            return torch.arange(sequences, device=device), torch.ones(sequences, device=device), sequences
        if len(self._examples) != sequences:
            raise ValueError(f"{sequences} sequences came, and {len(self._examples)} were announced")
        _, owners_B, counts = self._examples.to(device).unique(return_inverse=True, return_counts=True)
        return owners_B, 1 / counts[owners_B], len(counts)

    def gradients(self, adapters: AdapterSet) -> dict[nn.Parameter, Tensor]:
        """The gradient of each example by parameter, (examples, *shape), after the backward of their mean loss."""
        found = dict(self._head)
        for path, adapter in adapters.adapters.items():
            if path not in self._output_gradients:
                continue
            A, B = adapter.lora_A.detach(), adapter.lora_B.detach()
            x_BTi, g_BTo = self._inputs[path].to(A.dtype), self._output_gradients[path].to(A.dtype)
            owners_B, _, count = self._owners(len(x_BTi), x_BTi.device)
            size = count * adapter.scaling  # the loss was divided by the number of examples
            if adapter.lora_B.requires_grad:
                found[adapter.lora_B] = _summed(size * torch.einsum("bto,btr->bor", g_BTo, x_BTi @ A.T), owners_B)
            if adapter.lora_A.requires_grad:
                found[adapter.lora_A] = _summed(size * torch.einsum("btr,bti->bri", g_BTo @ B, x_BTi), owners_B)
        return found

    def privatise(self, parameters: Sequence[nn.Parameter], adapters: AdapterSet, number: int, step: int) -> None:
        """Replace the gradients of ``parameters`` by the noisy mean of clipped ones, drawn for a round and step.

        ``norms`` is set to the norms of the examples' gradients before clipping.
        """
        found = self.gradients(adapters)
        generator = torch_generator(self.seed, "privacy-examples", self.client, number, step)
        squares = [double(g.flatten(1)).square().sum(1) for g in found.values()]
        self.norms = torch.stack(squares).sum(0).sqrt() if squares else torch.zeros(0)
        kept_B = (self.clip / self.norms.clamp(min=1e-30)).clamp(max=1.0)
        totals = torch.zeros(3, dtype=torch.float64)
        for parameter in parameters:
            noise = self.multiplier * self.clip * torch.randn(parameter.shape, generator=generator)
            total = noise = noise.to(parameter.device, parameter.dtype)
            signal = torch.zeros_like(parameter)
            if parameter in found:
                signal = torch.einsum("b,b...->...", kept_B.to(parameter.dtype).to(parameter.device), found[parameter])
                total = total + signal
            parameter.grad = total / self.batch_size
            totals += torch.stack([double(part).square().sum() for part in (signal, noise, total)]).detach().cpu()
        self._seen.append((self.norms, *totals.tolist()))
        self._inputs, self._output_gradients, self._head, self._examples = {}, {}, {}, None

    def of_round(self) -> Norms | None:
        """The norms of all steps of the round so far; None before the first."""
        if not self._seen:
            return None
        each = torch.cat([norms.cpu() for norms, *_ in self._seen])
        steps = len(self._seen)
        signal, noise, total = (
            math.sqrt(sum(column) / steps) for column in zip(*(s[1:] for s in self._seen), strict=True)
        )
        before, clipped, over = each, each.clamp(max=self.clip), each > self.clip
        means = [float(values.double().mean()) if len(each) else 0.0 for values in (before, clipped, over)]
        return Norms(means[0], means[1], total / self.batch_size, means[2], ratio(noise, signal))


def _summed(each_B: Tensor, owners_B: Tensor) -> Tensor:
    """Sum (B, ...) over the sequences of each example to (examples, ...)."""
    if len(each_B) == int(owners_B.max()) + 1:
        return each_B  # each is one of its own
    return each_B.new_zeros(int(owners_B.max()) + 1, *each_B.shape[1:]).index_add_(0, owners_B, each_B)
