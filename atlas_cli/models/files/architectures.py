"""Published architectures with built-in Hugging Face configs: planning and random initialisation work offline."""

from __future__ import annotations

import os
from collections.abc import Callable

from transformers import BertConfig, DistilBertConfig, GPT2Config, LlamaConfig, PreTrainedConfig, RobertaConfig

_LLAMA_3 = {"vocab_size": 128256, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 8192}

ARCHITECTURES: dict[str, Callable[[], PreTrainedConfig]] = {
    "gpt2": GPT2Config,
    "gpt2-medium": lambda: GPT2Config(n_embd=1024, n_layer=24, n_head=16),
    "gpt2-large": lambda: GPT2Config(n_embd=1280, n_layer=36, n_head=20),
    "gpt2-xl": lambda: GPT2Config(n_embd=1600, n_layer=48, n_head=25),
    "bert-base-uncased": BertConfig,
    "bert-large-uncased": lambda: BertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
    "distilbert-base-uncased": DistilBertConfig,
    "roberta-base": lambda: RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1),
    "llama-7b": LlamaConfig,
    "llama-13b": lambda: LlamaConfig(
        hidden_size=5120, num_hidden_layers=40, num_attention_heads=40, intermediate_size=13824
    ),
    "llama-2-70b": lambda: LlamaConfig(
        hidden_size=8192,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        intermediate_size=28672,
        max_position_embeddings=4096,
    ),
    "llama-3-8b": lambda: LlamaConfig(num_key_value_heads=8, intermediate_size=14336, **_LLAMA_3),
    "llama-3-70b": lambda: LlamaConfig(
        hidden_size=8192,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        intermediate_size=28672,
        **_LLAMA_3,
    ),
}
ALIASES = {
    "bert": "bert-base-uncased",
    "llama": "llama-7b",
    "distilbert": "distilbert-base-uncased",
    "roberta": "roberta-base",
}


def built_in(name: str) -> PreTrainedConfig | None:
    """A new config of a known architecture (``gpt2``, ``openai-community/gpt2``, ``llama``), or None.

    The folder of a model is never one, whatever its name.
    """
    if not is_architecture(name) or os.path.isfile(os.path.join(name, "config.json")):
        return None
    return ARCHITECTURES[_known_as(name)]()


def is_architecture(name: str) -> bool:
    """Whether a name, which is not written as a path, is that of a known architecture."""
    return not name.startswith((".", "/", "~")) and name.count("/") <= 1 and _known_as(name) in ARCHITECTURES


def _known_as(name: str) -> str:
    short = name.rsplit("/", 1)[-1].lower()
    return ALIASES.get(short, short)
