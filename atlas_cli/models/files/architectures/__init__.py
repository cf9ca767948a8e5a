"""Published architectures with built-in Hugging Face configs: planning and random initialisation work offline."""

from __future__ import annotations

import os

from transformers import AutoConfig, PreTrainedConfig

from atlas_cli.models.files.architectures.decoders import DECODERS
from atlas_cli.models.files.architectures.encoders import ENCODERS

# by name: model_type and the fields in which the model differs from its config class, with the dtype of its files
ARCHITECTURES = {**DECODERS, **ENCODERS}
ALIASES = {
    "bert": "bert-base-uncased",
    "llama": "llama-7b",
    "distilbert": "distilbert-base-uncased",
    "roberta": "roberta-base",
}
# models of one architecture: base and instruction-tuned ones, and formats of one model
VARIANTS = ("-instruct", "-it", "-pt", "-base", "-hf", "-deduped")


def built_in(name: str) -> PreTrainedConfig | None:
    """A new config of a known architecture (``gpt2``, ``openai-community/gpt2``, ``llama``), or None.

    The folder of a model is never one, whatever its name.
    """
    if not is_architecture(name) or os.path.isfile(os.path.join(name, "config.json")):
        return None
    return AutoConfig.for_model(**ARCHITECTURES[_known_as(name)])


def is_architecture(name: str) -> bool:
    """Whether a name, which is not written as a path, is that of a known architecture."""
    return not name.startswith((".", "/", "~")) and name.count("/") <= 1 and _known_as(name) in ARCHITECTURES


def _known_as(name: str) -> str:
    short = name.rsplit("/", 1)[-1].lower()
    for each in (short, *(short.removesuffix(variant) for variant in VARIANTS)):
        if (known := ALIASES.get(each, each)) in ARCHITECTURES:
            return known
    return short
