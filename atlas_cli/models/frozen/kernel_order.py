"""Frozen linear layers whose weights lie in the order in which oneDNN's kernels read them.

A matrix product on a CPU first copies its weight into blocks that fit the registers; a frozen weight can lie so from
the start, once for y = W x + b and once for the gradient at x. On few rows the copy is a large part of the work:
kernels on weights in order reach at 24 rows a rate that others do not reach at 1,000. The operators are those that
torch.compile emits for frozen weights; they are used only where a trial of them gives what a plain product gives.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.halves.split import blocks_of

# numbers of a weight: below, a call (50 us, more for a new number of rows) outweighs what it gains
LEAST = 384 * 384
_ROWS = 256  # what the order is chosen for; any number of rows is as fast in it


def prepack_blocks(bases: Sequence[FrozenBase], limit: int) -> int:
    """Replace linear layers of the blocks, in place, block by block while their weights in order fit ``limit`` bytes.

    Nothing is copied before a layer is used. Layers that are not on a CPU in float32, or smaller than ``LEAST``, stay
    as they are, and so do all where the kernels are not to be had.

    Returns:
        How many layers.
    """
    replaced = 0
    blocks = {id(block): block for base in bases for block in blocks_of(base.model, base.family)}
    for block in blocks.values() if available() else ():
        for path, layer in list(block.named_modules()):
            if not isinstance(layer, nn.Linear | Conv1D) or not _fits(layer):
                continue
            limit -= 2 * layer.weight.numel() * layer.weight.element_size()
            if limit < 0:
                return replaced
            parent, _, name = path.rpartition(".")
            setattr(block.get_submodule(parent), name, _prepacked(layer))
            replaced += 1
    return replaced


def prepacked_bytes(base: FrozenBase, layers: int) -> int:
    """The bytes of reordered weights in the first ``layers`` blocks of a base once all have been used."""
    modules = (m for block in blocks_of(base.model, base.family)[:layers] for m in block.modules())
    return sum(2 * m.weight.numel() * m.weight.element_size() for m in modules if isinstance(m, Prepacked))


def prepacked_record(bases: Sequence[FrozenBase]) -> dict[str, int] | None:
    """How many layers have copies of their weights in order, and the bytes of those; None: none has."""
    found = {id(m): m for base in bases for m in base.model.modules() if isinstance(m, Prepacked) and m.held}
    sizes = [layer.held * layer.weight.numel() * layer.weight.element_size() for layer in found.values()]
    return {"layers": len(sizes), "bytes": sum(sizes)} if sizes else None


def prepacked_error(bases: Sequence[FrozenBase]) -> float:
    """The largest difference between a weight and its reordered copy; unless it is 0, results are not the model's."""
    gaps = [m.departure() for base in bases for m in base.model.modules() if isinstance(m, Prepacked)]
    return float(torch.tensor(gaps).max()) if gaps else 0.0


def share_packs(owner: nn.Module, other: nn.Module) -> None:
    """Let a copy of a model, over the same weights, use and make the reordered copies of the model's own layers."""
    for layer, same in zip(owner.modules(), other.modules(), strict=True):
        if isinstance(layer, Prepacked):
            same.__dict__["_packs"] = layer.__dict__.setdefault("_packs", {})


def in_order(weight: Tensor) -> Tensor:
    """A copy of a weight (d_out, d_in) as the kernels read it; ``to_dense`` gives the weight back."""
    found: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)
    return found


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W x + b for x (..., d_in) and a weight in order: (..., d_out)."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


@cache
def available() -> bool:
    """Whether this machine's CPU has the kernels, and they compute what a plain product computes."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False  # elsewhere torch has other kernels, which have not been compared
    x, weight, bias = (torch.linspace(-1, 1, n).view(shape) for n, shape in ((48, (3, 16)), (128, (8, 16)), (8, (8,))))
    try:
        found = product(x, in_order(weight), bias)
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(found, nn.functional.linear(x, weight, bias), rtol=1e-5, atol=1e-5)


class Prepacked(nn.Module):
    """A frozen layer that computes with its reordered weight or, if it cannot, like its original class."""

    weight: Tensor
    bias: Any

    def forward(self, x: Tensor) -> Tensor:
        """W x + b for x (..., d_in): (..., d_out)."""
        if not self.takes(x):
            return super().forward(x)
        if torch.is_grad_enabled() and x.requires_grad:
            return _Product.apply(x, self, False, self.bias)
        return self.times(x, False, self.bias)

    def takes(self, x: Tensor) -> bool:
        """Whether it computes with its reordered weight for this input."""
        # a tensor of a subclass (a fake one, say) has no data; a copy of the layer may be in another dtype or place
        plain = type(x) is Tensor and x.numel() > 0 and not torch.is_autocast_enabled("cpu")
        weight = self.weight
        alike = x.dtype == weight.dtype == torch.float32 and x.is_cpu and weight.is_cpu
        return plain and alike and not weight.requires_grad and available()

    def back(self, gradient: Tensor) -> Tensor:
        """W^T g, a new tensor."""
        found: Tensor = _Product.apply(gradient, self, True, None)
        return found

    def times(self, x: Tensor, back: bool, bias: Tensor | None) -> Tensor:
        """W x + b, or W^T x, without a graph: a new tensor."""
        packs, weight = self.__dict__.setdefault("_packs", {}), self.weight
        pack, of, version = packs.get(back, (None, None, 0))
        if of is not weight or version != weight._version:  # another weight, or one that was written to
            pack = in_order(self._out_by_in(back))
            packs[back] = pack, weight, weight._version
        return product(x.contiguous(), pack, bias)

    @property
    def held(self) -> int:
        """The number of reordered copies of the weight: 0, 1 or 2."""
        return len(self.__dict__.get("_packs", {}))

    def departure(self) -> float:
        """The largest difference between the weight and its copies."""
        packs = self.__dict__.get("_packs", {})
        gaps = [(pack.to_dense() - self._out_by_in(back)).abs().max() for back, (pack, *_) in packs.items()]
        return float(torch.stack(gaps).max()) if gaps else 0.0

    def _out_by_in(self, back: bool) -> Tensor:
        return self.weight.t() if isinstance(self, Conv1D) != back else self.weight

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_packs"}  # a copy makes its own


class PrepackedLinear(Prepacked, nn.Linear):
    """``nn.Linear``, weight (d_out, d_in)."""


class PrepackedConv1D(Prepacked, Conv1D):
    """GPT-2's ``Conv1D``, weight (d_in, d_out)."""


class _Product(torch.autograd.Function):
    """y = W x + b of a frozen layer, and the gradient at x, which is again one; nothing is saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Prepacked, back: bool, bias: Tensor | None) -> Tensor:
        ctx.layer, ctx.back = layer, back
        return layer.times(x, back, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _Product.apply(gradient, ctx.layer, not ctx.back, None), None, None, None


def _prepacked(layer: nn.Module) -> nn.Module:
    kind = PrepackedConv1D if isinstance(layer, Conv1D) else PrepackedLinear
    made = kind.__new__(kind)
    made.__dict__.update(layer.__dict__)  # the same parameters, and hooks if there are any
    return made


def _fits(layer: nn.Linear | Conv1D) -> bool:
    if type(layer) not in (nn.Linear, Conv1D):  # as quantised ones, which have no such weight
        return False
    weight, frozen = layer.weight, not any(p.requires_grad for p in layer.parameters())
    fits = weight.numel() >= LEAST
    return fits and frozen and weight.device.type == "cpu" and weight.dtype == torch.float32
