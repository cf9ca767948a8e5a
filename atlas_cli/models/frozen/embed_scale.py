"""The factor of an embedding that scales itself (Gemma's, by the square root of its width) in full precision.

A model that is made in bfloat16 rounds it once and for all. In float32 it is rounded where it is used, to the same
number, and a copy of the model in another dtype has the factor of a model that was loaded in that dtype.
"""

from __future__ import annotations

import torch
from torch import nn


def keep_exact_scale(model: nn.Module) -> None:
    """Hold the factors of a model's embeddings in float32, in place."""
    for module in model.modules():
        factor = getattr(module, "scalar_embed_scale", None)
        if factor is not None:
            module.embed_scale = torch.tensor(factor, dtype=torch.float32)
