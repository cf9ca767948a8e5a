"""Adapters in PEFT's own format: a folder that stock ``peft`` loads, and the way back.

Names in the file are PEFT's (``base_model.model.<path>.lora_A.weight``). The base model that they belong to is the
one that ``AutoModel`` gives, or ``AutoModelForCausalLM`` for a language-modelling task. A trained head is stored
beside it in head.safetensors, and hashes of all files in SHA256SUMS.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from atlas_cli.errors import ResourceError
from atlas_cli.models.checksums import SUMS, check_folder, checksums
from atlas_cli.models.load import FrozenBase
from atlas_cli.models.lora import AdapterSet, features_of, scale_of

_REPEATS = re.compile(r"[*+?{]")
PREFIX = "base_model.model."
_CONFIG, _TENSORS, _HEAD = "adapter_config.json", "adapter_model.safetensors", "head.safetensors"
_A, _B = ".lora_A.weight", ".lora_B.weight"


def peft_files(
    base: FrozenBase,
    adapters: AdapterSet,
    *,
    alpha: float,
    dropout: float,
    rslora: bool,
    causal_lm: bool,
    head: Mapping[str, Tensor],
) -> dict[str, bytes]:
    """Files of a PEFT adapter folder, by name.

    Args:
        causal_lm: names as under ``AutoModelForCausalLM``, else as under ``AutoModel``.
        head: parameters of a trained head; may be empty.
    """
    inner = f"{_inner(base)}." if causal_lm else ""
    tensors: dict[str, Tensor] = {}
    for path, adapter in adapters.adapters.items():
        tensors[f"{PREFIX}{inner}{path}{_A}"] = adapter.lora_A.detach().cpu().contiguous()
        tensors[f"{PREFIX}{inner}{path}{_B}"] = adapter.lora_B.detach().cpu().contiguous()
    ranks = {f"{inner}{path}": adapter.rank for path, adapter in adapters.adapters.items()}
    common = max(ranks.values())
    first = base.model.get_submodule(next(iter(adapters.adapters)))
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if causal_lm else "FEATURE_EXTRACTION",
        "base_model_name_or_path": base.name,
        "inference_mode": True,
        "r": common,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "use_rslora": rslora,
        "fan_in_fan_out": isinstance(first, Conv1D),
        "bias": "none",
        "target_modules": sorted(ranks),
        # alpha / r of each layer follows from its own rank
        "rank_pattern": {path: rank for path, rank in ranks.items() if rank != common},
        "alpha_pattern": {},
    }
    files = {
        _CONFIG: (json.dumps(config, indent=2) + "\n").encode(),
        _TENSORS: save(tensors, metadata={"format": "pt"}),
    }
    if head:
        files[_HEAD] = save({n: t.detach().cpu().contiguous() for n, t in head.items()})
    return {**files, SUMS: checksums(files)}


def read_peft(folder: str | Path, base: FrozenBase) -> dict[str, tuple[Tensor, Tensor, float]]:
    """A PEFT LoRA folder as ``{path in the base: (A (r, d_in), B (d_out, r), scale)}``.

    Tensors beside the base model, such as a head that PEFT saved with the adapter, are left alone.

    Raises:
        ResourceError: not a plain LoRA adapter, damaged, or not for this model.
    """
    folder = Path(folder)
    check_folder(folder, (_CONFIG, _TENSORS, _HEAD))
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / _TENSORS)
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise ResourceError(f"{folder} is not a PEFT adapter that can be read: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise ResourceError(f"{folder}: expected a LoRA adapter, found {kind!r}")
    for option in ("use_dora", "lora_bias", "layer_replication"):
        if config.get(option):
            raise ResourceError(f"{folder}: expected a plain LoRA adapter, found {option}")
    if config.get("bias", "none") != "none":
        raise ResourceError(f"{folder}: expected a plain LoRA adapter, found trained biases")
    if other := [name for name in tensors if "lora_" in name and not name.endswith((_A, _B))]:
        raise ResourceError(f"{folder}: expected a plain LoRA adapter, found {other[0]}")
    pairs = dict.fromkeys(n.removesuffix(_A).removesuffix(_B) for n in tensors if n.endswith((_A, _B)))
    if not pairs:
        raise ResourceError(f"{folder} holds no LoRA tensors")
    found = {}
    for name in pairs:
        named = name.removeprefix(PREFIX)
        path = named.removeprefix(f"{_inner(base)}.")
        try:
            d_in, d_out = features_of(base.model.get_submodule(path))
        except (AttributeError, TypeError):
            raise ResourceError(f"{folder}: {named} is not a linear layer of {base.name}") from None
        A, B = tensors.get(name + _A), tensors.get(name + _B)
        rank = A.shape[0] if A is not None and A.dim() == 2 else 0
        if A is None or B is None or not rank or A.shape[1] != d_in or B.shape != (d_out, rank):
            raise ResourceError(f"{folder}: lora_A and lora_B of {named} do not fit together, or not to {base.name}")
        if not (A.is_floating_point() and B.is_floating_point()):
            raise ResourceError(f"{folder}: lora_A and lora_B of {named} are not floating-point numbers: {A.dtype}")
        scale = scale_of(rank, _alpha(config, named, folder), bool(config.get("use_rslora")))
        found[path] = (A.to(torch.float32), B.to(torch.float32), scale)
    return found


def read_head(folder: Path) -> dict[str, Tensor]:
    """Parameters of a head stored beside an adapter; empty where there is none.

    Raises:
        ResourceError: damaged.
    """
    file = folder / _HEAD
    if not file.is_file():
        return {}
    try:
        head = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ResourceError(f"{file} cannot be read: {error}") from None
    if other := [name for name, value in head.items() if not value.is_floating_point()]:
        raise ResourceError(f"{file}: {other[0]} is not of floating-point numbers: {head[other[0]].dtype}")
    return head


def _alpha(config: Mapping[str, Any], layer: str, folder: Path) -> float:
    # as PEFT looks it up: the first pattern that is an end of the layer's name, as a regular expression
    try:
        patterns = (config.get("alpha_pattern") or {}).items()
        if slow := [pattern for pattern, _ in patterns if len(_REPEATS.findall(pattern)) > 3 or ")" in pattern]:
            raise ValueError(f"{slow[0]!r:.60} may take for ever to compare; expected the end of a layer's name")
        fitting = (alpha for pattern, alpha in patterns if re.match(rf"(.*\.)?({pattern})$", layer))
        alpha = float(next(fitting, config["lora_alpha"]))
        if not math.isfinite(alpha):
            raise ValueError(f"{alpha} is not finite")
        return alpha
    except (KeyError, TypeError, ValueError, AttributeError, re.error) as error:
        raise ResourceError(f"{folder}: lora_alpha or alpha_pattern is damaged: {error}") from None


def _inner(base: FrozenBase) -> str:
    """Name of the base model inside its causal-LM class: ``transformer`` for GPT-2, ``model`` for LLaMA."""
    return str(base.model.base_model_prefix)
