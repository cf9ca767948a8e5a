"""Quantised blocks without weights: they are as large as real ones, and make the same tensors when they compute.

bitsandbytes need not be installed to plan with them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from atlas_cli.models.adapters.lora import features_of
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.models.frozen.weight_format import Quantization, quantized_bytes
from atlas_cli.models.halves.split import blocks_of


def quantize_without_weights(base: nn.Module, family: BaseFamily, quantization: Quantization) -> None:
    """Put a quantised layer without weights in place of every linear layer of the blocks."""
    if quantization == "none":
        return
    for block in blocks_of(base, family):
        for path, layer in list(block.named_modules()):
            if isinstance(layer, nn.Linear | Conv1D):
                parent, _, name = path.rpartition(".")
                setattr(block.get_submodule(parent), name, _Quantized(layer, quantization))


class _Quantized(nn.Linear):
    packed: Tensor

    def __init__(self, layer: nn.Module, quantization: Quantization) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = features_of(layer)
        self.bias = layer.bias  # type: ignore[assignment]
        size = quantized_bytes(self.out_features, self.in_features, quantization)
        self.register_buffer("packed", torch.empty(size, dtype=torch.uint8, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = _Product.apply(x, self)
        return product

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        return torch.empty(self.out_features, self.in_features, dtype=dtype)


class _Product(torch.autograd.Function):
    """x W + bias; W is made for the forward and again for the backward, and is not kept between them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: _Quantized) -> Tensor:
        ctx.layer = layer
        return functional.linear(x, layer.dequantized(x.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.dequantized(gradient.dtype), None
