"""The files by which sentence-transformers puts pooling and a linear layer behind a model: it gives the logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from atlas_cli.tasks._heads import PooledHead

_MODES = {"mean": "mean_tokens", "first": "cls_token", "last": "lasttoken"}
_OTHERS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
_PARTS = ("", "1_Pooling", "2_Dense")


def write_pooling_and_head(folder: Path, head: PooledHead, max_length: int) -> None:
    """Write modules.json and what it names, beside the files of the model itself.

    Args:
        max_length: tokens after which texts are cut.
    """
    names = ("Transformer", "Pooling", "Dense")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (path, name) in enumerate(zip(_PARTS, names, strict=True))
    ]
    _write(folder / "modules.json", modules)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    outputs, size = head.classifier.weight.shape
    pooling = {f"pooling_mode_{mode}": mode == _MODES[head.pool.pooling] for mode in _OTHERS}
    _write(folder / _PARTS[1] / "config.json", {"word_embedding_dimension": size, **pooling})
    dense = {"in_features": size, "out_features": outputs, "bias": True}
    _write(folder / _PARTS[2] / "config.json", {**dense, "activation_function": "torch.nn.modules.linear.Identity"})
    tensors = {f"linear.{name}": tensor.detach().cpu() for name, tensor in head.classifier.named_parameters()}
    save_file(tensors, folder / _PARTS[2] / "model.safetensors", metadata={"format": "pt"})


def _write(file: Path, content: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", newline="\n")
