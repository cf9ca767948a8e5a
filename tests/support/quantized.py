"""Makes quantised weights dense by their definition: levels times scales, without the library that rounded them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from atlas_cli.models.frozen.quantized import Quantized


def dense_by_hand(layer: Quantized) -> Tensor:
    """The weight (d_out, d_in) of a quantised layer."""
    held = {name: tensor.cpu() for name, tensor in layer.named_buffers()}
    d_out, d_in = layer.shape
    if held["packed"].dtype == torch.int8:
        return held["packed"].float() * held["absmax"][:, None] / 127
    absmax = held["absmax"]
    if absmax.dtype == torch.uint8:
        of_each = held["nested_absmax"].repeat_interleave(256)[: len(absmax)]
        absmax = held["nested_levels"][absmax.long()] * of_each + held["offset"]
    level = torch.stack([held["packed"] >> 4, held["packed"] & 15], 1).flatten()[: d_out * d_in]
    return (held["levels"][level.long()] * absmax.repeat_interleave(64)[: d_out * d_in]).view(d_out, d_in)


@torch.no_grad()
def with_dense_weights(model: nn.Module, quantized: nn.Module) -> None:
    """Give a model the weights that those of its quantised copy stand for."""
    for path, layer in quantized.named_modules():
        if isinstance(layer, Quantized):
            theirs, dense = model.get_submodule(path), dense_by_hand(layer)
            theirs.weight.copy_(dense.t() if isinstance(theirs, Conv1D) else dense)
