"""A client that learns by forward passes alone: the step of HO-SFL (2603.14773).

The server computes its backward as ever and returns lambda, the gradient of the loss at the cut. The client's part of
the chain rule, J' lambda with J the derivative of its output z = f(theta), is estimated by P further forwards with
perturbed adapters:

    v_p = <lambda, f(theta + mu u_p) - z>,    g = 1 / (P mu) sum_p v_p u_p,    u_p ~ N(0, I)

No graph is kept, so memory is that of inference, with two copies of the adapters. Of a half that is linear in what is
trained the estimate has mean J' lambda for every mu, and E|g - J' lambda|^2 = (d + 1) / P |J' lambda|^2 for d trained
numbers. Its own optimizer steps on g, and adapters are merged as those of any client: several local steps, unequal
ranks, and clients of other kinds in a group need nothing more. (HO-SFL merges scalars instead of adapters, which asks
for one step a round and the same adapters everywhere.)

A perturbation is drawn by client, round, step, probe, layer and component: one of a lower rank is a part of one of a
higher rank, and the errors of several clients are independent, so that a merge averages them out.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from atlas_cli.federation.parties.measured_memory import tensor_bytes
from atlas_cli.federation.parties.numerics import require_finite
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.seeding import torch_generator


class ZerothOrderClient(SplitClient):
    """A client of a split that estimates the gradient of its adapters; see the module."""

    alone = True
    _inputs: tuple[dict[str, Tensor], Tensor] | None = None

    def _run(self, inputs: dict[str, Tensor], mask: Tensor) -> Tensor:
        self._inputs = inputs, mask
        with torch.no_grad():
            return super()._run(inputs, mask)

    @torch.no_grad()
    def backward(self, gradients: Tensor) -> None:
        """Estimate the adapters' gradients from the gradient at the cut, by forward passes."""
        assert self._inputs is not None and self._activations is not None, "compute_activations comes first"
        (inputs, mask), self._inputs = self._inputs, None
        sent, self._activations = self._activations, None
        require_finite(gradients, f"gradient sent to {self.when}")
        at_cut = gradients.view_as(sent)
        trained, count = self.adapters.trained(), self.training.zeroth_order.probes
        smoothing = self.training.zeroth_order.smoothing
        before = [parameter.clone() for parameter in trained]
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        try:
            for probe in range(count):
                along = list(self._perturbation(probe))
                for parameter, value, direction in zip(trained, before, along, strict=True):
                    parameter.copy_(value + smoothing * direction)
                change = self._outputs(inputs, mask) - sent
                change.mul_(at_cut).mul_(mask.unsqueeze(-1))  # what covers padding is no gradient
                slope = float(change.sum(dtype=torch.float64)) / (count * smoothing)
                del change  # not alive in the next forward
                for parameter, direction in zip(trained, along, strict=True):
                    parameter.grad.add_(direction, alpha=slope)  # type: ignore[union-attr]
        finally:
            for parameter, value in zip(trained, before, strict=True):
                parameter.copy_(value)
        self.finish_gradients(*self.now)
        if self.usage is not None:
            self.usage.gradients = tensor_bytes(p.grad for p in trained)

    def _outputs(self, inputs: dict[str, Tensor], mask: Tensor) -> Tensor:
        """The output for a batch with the present adapters, dropout as in the first forward."""
        with self.forward_pass(*self.now, ()):
            return self._below_cut(inputs, mask)

    def _perturbation(self, probe: int) -> Iterator[Tensor]:
        """A direction for each trained parameter, in their order."""
        for path, adapter in self.adapters.adapters.items():
            draws = [
                torch_generator(self.seed, "zeroth order", self.name, *self.now, probe, path, component)
                for component in range(adapter.rank)
            ]  # A first, so that a component is the same at any rank
            A = torch.stack([torch.randn(adapter.lora_A.shape[1], generator=draw) for draw in draws])
            B = torch.stack([torch.randn(adapter.lora_B.shape[0], generator=draw) for draw in draws], dim=1)
            yield from (u.to(p) for p, u in ((adapter.lora_A, A), (adapter.lora_B, B)) if p.requires_grad)
