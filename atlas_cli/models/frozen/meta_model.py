"""A model without storage: its modules and shapes, on PyTorch's meta device."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig
from transformers.initialization import no_init_weights

from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.models.frozen.load import from_config
from atlas_cli.models.frozen.output_embedding import output_embedding
from atlas_cli.models.frozen.quantized import linear_layers, quantized
from atlas_cli.models.frozen.weight_format import Quantization
from atlas_cli.models.halves.split import blocks_of


def meta_model(
    hf_config: PreTrainedConfig,
    family: BaseFamily,
    dtype: torch.dtype = torch.float32,
    quantization: Quantization = "none",
) -> tuple[nn.Module, nn.Module | None]:
    """The base model and its output embedding (tied ones share their tensor) without storage.

    Raises:
        ConfigError: sizes that do not fit together.
    """
    with torch.device("meta"), no_init_weights():  # values that nothing keeps take most of the time to draw
        model: Any = from_config(AutoModelForCausalLM if family.causal else AutoModel, hf_config, dtype)
    model.tie_weights()  # which is left out with the values
    model.requires_grad_(False).eval()
    base = model.base_model if family.causal else model
    for path in family.unused:
        setattr(base, path, None)
    for block in blocks_of(base, family) if quantization != "none" else ():
        for path, layer in linear_layers(block).items():
            block.set_submodule(path, quantized(layer, quantization, dtype))
    return base, output_embedding(model) if family.causal else None
