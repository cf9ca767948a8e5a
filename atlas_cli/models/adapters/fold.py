"""Adapters folded into the weights: W + s B A, a model of the size and speed of the base."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from atlas_cli.models.adapters.lora import AdapterSet


def weight_changes(base: nn.Module, adapters: AdapterSet) -> Iterator[tuple[str, Tensor]]:
    """By path of its layer, what is added to each weight, in float32 and the weight's own layout."""
    for path in dict.fromkeys((*adapters.adapters, *adapters.frozen)):
        layer = base.get_submodule(path)
        weight = layer.weight
        assert isinstance(weight, Tensor)
        factors = [(A, B) for A, B in adapters.frozen.get(path, ())]
        if (adapter := adapters.adapters.get(path)) is not None:
            factors.append((adapter.lora_A, adapter.scaling * adapter.lora_B))
        change = sum(B.detach().float() @ A.detach().float() for A, B in factors)
        assert isinstance(change, Tensor)
        yield path, change.t() if isinstance(layer, Conv1D) else change  # GPT-2 stores (d_in, d_out)


@contextmanager
@torch.no_grad()
def folded(base: nn.Module, adapters: AdapterSet) -> Iterator[None]:
    """Inside the block the weights of ``base`` have the adapters in them; after it they are what they were."""
    before: dict[str, Tensor] = {}
    try:
        for path, change in weight_changes(base, adapters):
            weight = base.get_submodule(path).weight
            assert isinstance(weight, Tensor)
            before[path] = weight.detach().clone()
            weight.copy_(weight.float() + change)  # summed in float32, rounded once
        yield
    finally:
        for path, values in before.items():
            weight = base.get_submodule(path).weight
            assert isinstance(weight, Tensor)
            weight.copy_(values)
