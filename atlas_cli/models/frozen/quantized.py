"""Frozen linear layers whose weights are held in 4 or 8 bits (QLoRA, 2305.14314; LLM.int8, 2208.07339).

A weight is rounded once, on the CPU, so that its bits do not depend on the device. For each product it is made dense
again in the layer's dtype, in the backward, too, and nothing but its few bits is kept between the two. Activations are
not rounded, with int8 neither: what a text gives depends on no other text, and rows that share a pass give what they
give alone.

Rounding and making dense are bitsandbytes' (the extra ``quantization``), which is imported when the first weight is
rounded. Tensors without data (meta and fake ones, as planning has them) need no library.
"""

from __future__ import annotations

import importlib
import logging
import sys
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from atlas_cli.errors import ConfigError
from atlas_cli.extras import install_command
from atlas_cli.models.frozen.weight_format import BLOCK, SCALES, Quantization

# classes that compute W x + b; a subclass may compute something else
_LINEAR = ("Linear", "Conv1D", "FalconLinear")
DEVICES = ("cpu", "cuda")  # on others bitsandbytes takes its kernels from the hub, or has none


def linear_layers(block: nn.Module) -> dict[str, nn.Linear | Conv1D]:
    """The layers of a block that are quantised, by path."""
    linear = ((path, m) for path, m in block.named_modules() if isinstance(m, nn.Linear | Conv1D))
    return {path: m for path, m in linear if type(m).__name__ in _LINEAR}


class Quantized(nn.Module):
    """What quantised layers share.

    Attributes:
        shape: (d_out, d_in), also of a ``Conv1D``.
        packed: two weights of 4 bits in a byte, or one of 8; the order is that of (d_out, d_in).
        absmax: the scale of each block or row: the largest magnitude in it; with nf4-double in 8 bits.
    """

    packed: Tensor
    absmax: Tensor
    nested_absmax: Tensor
    nested_levels: Tensor
    offset: Tensor
    bias: Any

    def forward(self, x: Tensor) -> Tensor:
        """W x + b for x (..., d_in)."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        product: Tensor = _Product.apply(x, self, False, None if self.bias is None else self.bias.to(x.dtype))
        return product

    def times(self, x: Tensor, back: bool, bias: Tensor | None) -> Tensor:
        """W x + b, or W^T x."""
        weight = self.dense(x.dtype)
        return functional.linear(x, weight.t() if back else weight, bias)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The weight (d_out, d_in) with the values that its bits stand for."""
        if self.packed.dtype == torch.int8:
            numbers = self.packed.to(torch.float32)
            return numbers.mul_((self.absmax / 127)[:, None]).to(dtype)
        absmax, n = self.absmax, self.shape[0] * self.shape[1]
        if absmax.dtype == torch.uint8:
            absmax = _dense_scales(absmax, self.nested_absmax, self.nested_levels) + self.offset
        return _dense_4bit(self.packed, absmax, dtype)[:n].view(self.shape)

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        raise NotImplementedError


class QuantizedLinear(Quantized, nn.Linear):
    """``nn.Linear``."""

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        return self.out_features, self.in_features


class QuantizedConv1D(Quantized, Conv1D):
    """GPT-2's ``Conv1D``, whose weight is (d_in, d_out) otherwise."""

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        return cast(int, self.nf), cast(int, self.nx)


class _Product(torch.autograd.Function):
    """y = W x + b of a frozen layer, and the gradient at x, which is again one; nothing is saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Quantized, back: bool, bias: Tensor | None) -> Tensor:
        ctx.layer, ctx.back = layer, back
        return layer.times(x, back, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _Product.apply(gradient, ctx.layer, not ctx.back, None), None, None, None


@torch.no_grad()
def quantized(layer: nn.Linear | Conv1D, quantization: Quantization, dtype: torch.dtype) -> Quantized:
    """A layer of the same function whose weight, first cast to ``dtype``, is quantised; its bias is cast."""
    kind = QuantizedConv1D if isinstance(layer, Conv1D) else QuantizedLinear
    made: Quantized = kind.__new__(kind)
    nn.Module.__init__(made)
    for name in ("nx", "nf") if isinstance(layer, Conv1D) else ("in_features", "out_features"):
        setattr(made, name, getattr(layer, name))
    bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().to(dtype), requires_grad=False)
    made.register_parameter("bias", bias)
    weight = layer.weight.detach().to(dtype)
    weight = (weight.t() if isinstance(layer, Conv1D) else weight).contiguous()
    found = _hollow(weight, quantization) if weight.is_meta else _rounded(weight.cpu(), quantization)
    for name, tensor in found.items():
        made.register_buffer(name, tensor.to(weight.device))
    return made.eval()


@torch.no_grad()
def rounding(made: Quantized, layer: nn.Linear | Conv1D) -> float:
    """The largest difference of a quantised weight from the layer's own."""
    weight = layer.weight.t() if isinstance(layer, Conv1D) else layer.weight
    return float((made.dense(torch.float32) - weight).abs().max())


def require_quantization(quantization: Quantization, device: torch.device, key: str) -> None:
    """Check that weights can be quantised on a device of this machine, before anything is loaded.

    Raises:
        ConfigError: another device than ``DEVICES``, or bitsandbytes is not installed.
    """
    if quantization == "none":
        return
    if device.type not in DEVICES:
        raise ConfigError(
            f"{quantization} weights are computed with on cpu and cuda, and this run is on {device.type}; use "
            "device: cpu, or none",
            key=key,
        )
    try:
        _library()
    except ImportError as error:
        raise ConfigError(
            f"{quantization} weights need bitsandbytes, which cannot be imported ({error}): "
            f"{install_command('quantization')}",
            key=key,
        ) from None


@cache
def _library() -> Any:
    """bitsandbytes' functions.

    While it is imported it asks the package ``kernels``, where there is one, to fetch a program from the hub and run
    it, and logs a warning where there is none. The program serves products that are not used here: it is not fetched.
    """
    log, missing = logging.getLogger("bitsandbytes"), object()
    level, fetching = log.level, sys.modules.get("kernels", missing)
    log.setLevel(logging.ERROR)
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("bitsandbytes.functional")
    finally:
        log.setLevel(level)
        del sys.modules["kernels"]
        if fetching is not missing:
            sys.modules["kernels"] = fetching  # type: ignore[assignment]


def _rounded(weight: Tensor, quantization: Quantization) -> dict[str, Tensor]:
    """The tensors that stand for a weight (d_out, d_in), by name."""
    if quantization == "int8":
        packed, absmax, _ = _library().int8_vectorwise_quant(weight)
        return {"packed": packed, "absmax": absmax}
    packed, state = _library().quantize_4bit(
        weight, blocksize=BLOCK, quant_type="nf4", compress_statistics=quantization == "nf4-double"
    )
    found = {"packed": packed.flatten(), "absmax": state.absmax, "levels": state.code.clone()}
    if quantization == "nf4-double":
        nested = state.state2
        found |= {"offset": state.offset, "nested_absmax": nested.absmax, "nested_levels": nested.code.clone()}
    return found


def _hollow(weight: Tensor, quantization: Quantization) -> dict[str, Tensor]:
    """As ``_rounded``, without data."""
    n = weight.numel()
    scales = -(-n // BLOCK)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    if quantization == "int8":
        return {"packed": empty(*weight.shape, dtype=torch.int8), "absmax": empty(len(weight))}
    packed = empty(-(-n // 2), dtype=torch.uint8)
    if quantization == "nf4":
        return {"packed": packed, "absmax": empty(scales), "levels": empty(16)}
    nested = {"offset": empty(), "nested_absmax": empty(-(-scales // SCALES)), "nested_levels": empty(256)}
    return {"packed": packed, "absmax": empty(scales, dtype=torch.uint8), "levels": empty(16), **nested}


def _dense_4bit(packed: Tensor, absmax: Tensor, dtype: torch.dtype) -> Tensor:
    """The values of packed weights, one more than there are where their number is odd."""
    n = 2 * packed.numel()
    if type(packed) is not Tensor or packed.is_meta:
        return packed.new_empty(n, dtype=dtype)
    _library()
    # as one row: rows of an odd length have no kernel of their own
    found: Tensor = torch.ops.bitsandbytes.dequantize_4bit(packed, absmax, BLOCK, "nf4", (1, n), dtype)
    return found.view(-1)


def _dense_scales(absmax: Tensor, nested: Tensor, levels: Tensor) -> Tensor:
    """Scales of 8 bits as numbers, without their offset."""
    if type(absmax) is not Tensor or absmax.is_meta:
        return absmax.new_empty(absmax.shape, dtype=torch.float32)
    _library()
    found: Tensor = torch.ops.bitsandbytes.dequantize_blockwise(absmax, nested, levels, SCALES, torch.float32)
    return found
