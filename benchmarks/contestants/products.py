"""The matrix products that a step cannot do without, and nothing else: what the machine gives for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from atlas_cli.federation.federation import Federation
from atlas_cli.models.frozen.kernel_order import in_order, product
from atlas_cli.models.halves.split import blocks_of
from contestants.turns import Work


class Products:
    """Products of all frozen linear layers of the blocks, forward and back to their input, on one row a real token.

    What is adapted in the lowest block needs no product back: nothing below it is trained. Weights are the model's own,
    one after another as in a step, so that they come from memory as they do there; outputs go to buffers that are kept.

    Args:
        tokens: rows of a step; ``samples``: in how many texts.
        ordered: on weights in the order of the kernels (``engine.prepack``) instead of torch's own products.
    """

    def __init__(self, federation: Federation, samples: int, tokens: int, ordered: bool = False) -> None:
        self.work = Work(samples, tokens)
        base = federation.base
        linear = [
            (f"{base.family.blocks}.{name}", module)
            for name, module in blocks_of(base.model, base.family).named_modules()
            if isinstance(module, nn.Linear | Conv1D)
        ]
        adapters = next(iter(federation.clients.values())).adapters.adapters
        lowest = min(int(path.removeprefix(f"{base.family.blocks}.").split(".")[0]) for path in adapters)
        prefix = f"{base.family.blocks}.{lowest}."
        forward = [_weight(module) for _, module in linear]
        back = [_weight(module).t() for path, module in linear if not (path in adapters and path.startswith(prefix))]
        self.products = [*forward, *reversed(back)]
        self.flops = sum(2 * tokens * weight.numel() for weight in self.products)
        sizes = {size for weight in self.products for size in weight.shape}
        self._inputs = {size: torch.randn(tokens, size) for size in sizes}
        self._outputs = {size: torch.empty(tokens, size) for size in sizes}
        self._ordered = [in_order(weight.t()) for weight in self.products] if ordered else []

    @torch.no_grad()
    def step(self) -> Work:
        """All products once."""
        for weight in self._ordered:
            product(self._inputs[weight.shape[1]], weight, None)
        for weight in self.products if not self._ordered else ():
            d_in, d_out = weight.shape
            torch.mm(self._inputs[d_in], weight, out=self._outputs[d_out])
        return self.work


def _weight(module: nn.Linear | Conv1D) -> Tensor:
    """(d_in, d_out), a view."""
    return module.weight if isinstance(module, Conv1D) else module.weight.t()
