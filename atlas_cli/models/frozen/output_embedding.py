"""The output embedding of a causal model, with what its class does to the logits.

Gemma bounds them: c tanh(logit / c), with c the ``final_logit_softcapping`` of its config.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def output_embedding(whole: Any) -> nn.Module | None:
    """The layer that gives the logits of a Hugging Face causal model; None: it has none.

    Where the model's own class bounds its logits, it is a layer with the same parameters that bounds its outputs.
    """
    layer: nn.Module | None = whole.get_output_embeddings()
    bound = getattr(whole.config, "final_logit_softcapping", None)
    if layer is None or bound is None:
        return layer
    assert type(layer) is nn.Linear
    made = BoundedLinear.__new__(BoundedLinear)
    made.__dict__.update(layer.__dict__)  # the same parameters
    made.bound = bound
    return made


class BoundedLinear(nn.Linear):
    """A linear layer whose outputs lie between -``bound`` and ``bound``."""

    bound: float

    def forward(self, x: Tensor) -> Tensor:
        """The bounded outputs, in the steps of transformers, so that they are the same numbers."""
        return torch.tanh(super().forward(x) / self.bound) * self.bound
