"""The tanh GELU as one operation: Hugging Face's ``gelu_new`` writes it out, and so saves four tensors for one."""

from __future__ import annotations

from torch import nn
from transformers.activations import NewGELUActivation


def fuse_gelu(model: nn.Module) -> int:
    """Replace every ``gelu_new`` of a model by PyTorch's tanh GELU, in place; how many were replaced.

    The same function, to 2e-7 where its values are of order 1; a quarter of its saved bytes.
    """
    found = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, NewGELUActivation)
    ]
    for parent, name in found:
        setattr(parent, name, nn.GELU(approximate="tanh"))
    return len(found)
