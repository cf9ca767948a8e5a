"""QLoRA: bits of a frozen weight in NF4."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from atlas_cli.models.families import family_of
from atlas_cli.models.files.architectures import built_in
from atlas_cli.models.frozen.meta_model import meta_model
from atlas_cli.models.frozen.quantized import Quantized
from atlas_cli.models.frozen.weight_format import Quantization
from published.claim import Claim, Figure, Paper

PAPER = Paper("QLoRA", "2305.14314", "https://arxiv.org/abs/2305.14314")


def claims() -> Iterator[Claim]:
    """One and two levels of scales."""
    yield Claim(
        "bits a weight, without and with double quantisation",
        where="section 3, double quantization",
        setting="all linear layers of the blocks of Llama 7B; `model.quantization` nf4 and nf4-double; levels and "
        "offsets are counted, too",
        figures=(Figure("nf4", "4.5"), Figure("nf4-double", "4.127")),
        measure=lambda: [bits("llama-7b", name) for name in ("nf4", "nf4-double")],
    )


def bits(model: str, quantization: Quantization) -> float:
    """Of what the linear layers of its blocks hold, by their weights."""
    config = built_in(model)
    base, _ = meta_model(config, family_of(config.model_type), torch.float32, quantization)
    layers = [module for module in base.modules() if isinstance(module, Quantized)]
    held = sum(tensor.nbytes for layer in layers for tensor in layer.state_dict().values())
    return 8 * held / sum(math.prod(layer.shape) for layer in layers)
