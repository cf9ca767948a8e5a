"""Writes a model with its adapters merged in as ``save_pretrained`` does: config, safetensors, tokenizer."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import AutoModel

from atlas_cli.inference.loaded_model import LoadedModel
from atlas_cli.models.frozen.load import FrozenBase, from_config
from atlas_cli.tasks._heads import PooledHead


def config_for(loaded: LoadedModel) -> Any:
    """The Hugging Face config of the base with the task's classes, and the padding token of its texts."""
    config, task = copy.deepcopy(loaded.base.config), loaded.task
    config.dtype = loaded.base.dtype
    if task.causal_only:
        return config
    classes = task.classes or (["label"] if isinstance(loaded.model.head, PooledHead) else [])
    if classes:
        config.id2label, config.label2id = dict(enumerate(classes)), {name: i for i, name in enumerate(classes)}
    if isinstance(loaded.model.head, PooledHead):
        kinds = {(True, True): "single_label_classification", (True, False): "multi_label_classification"}
        config.problem_type = kinds.get((task.has_classes, task.one_class), "regression")
        if loaded.base.family.causal:  # their stock heads find the last token by it
            config.pad_token_id = loaded.pad
    return config


def tokenizer_for(loaded: LoadedModel) -> Any:
    """The run's tokenizer as stock tools must have it: it pads as the run did, unless the task is language modelling,
    and tells no segments to a model that has none."""
    tokenizer = copy.deepcopy(loaded.tokenizer)
    if tokenizer.pad_token_id is None and not loaded.task.causal_only:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(loaded.pad)
    if getattr(loaded.base.config, "type_vocab_size", 1) < 2:
        names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names
    return tokenizer


def with_unused(base: FrozenBase, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights, with zeros for what ``AutoModel`` has and no run reads (BERT's pooler), which it would draw."""
    with torch.device("meta"):
        whole = from_config(AutoModel, base.config, base.dtype).state_dict()
    missing = {name: tensor.shape for name, tensor in whole.items() if name not in weights}
    return {**weights, **{name: torch.zeros(shape, dtype=base.dtype) for name, shape in missing.items()}}


def write_model(folder: Path, config: Any, architecture: str, weights: Mapping[str, Tensor]) -> None:
    """Write config.json and model.safetensors (several files from 5 GB on) for a class of transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(config)
    config.architectures = [architecture]
    config.save_pretrained(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_torch_state_dict(tensors, folder, metadata={"format": "pt"})
