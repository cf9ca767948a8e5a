"""Adapters in PEFT's own format: a folder that stock ``peft`` loads, and the way back.

Names in the file are PEFT's (``base_model.model.<path>.lora_A.weight``). The base model that they belong to is the
one that ``AutoModel`` gives, or ``AutoModelForCausalLM`` for a language-modelling task. A trained head is stored
beside it in head.safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from atlas_cli.errors import ResourceError
from atlas_cli.models.load import FrozenBase
from atlas_cli.models.lora import AdapterSet

PREFIX = "base_model.model."


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
        tensors[f"{PREFIX}{inner}{path}.lora_A.weight"] = adapter.lora_A.detach().cpu().contiguous()
        tensors[f"{PREFIX}{inner}{path}.lora_B.weight"] = adapter.lora_B.detach().cpu().contiguous()
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
        "adapter_config.json": (json.dumps(config, indent=2) + "\n").encode(),
        "adapter_model.safetensors": save(tensors, metadata={"format": "pt"}),
    }
    if head:
        files["head.safetensors"] = save({n: t.detach().cpu().contiguous() for n, t in head.items()})
    return files


def read_peft(folder: str | Path, base: FrozenBase) -> dict[str, tuple[Tensor, Tensor, float]]:
    """A PEFT LoRA folder as ``{path in the base: (A (r, d_in), B (d_out, r), scale)}``.

    Raises:
        ResourceError: not a LoRA adapter, damaged, or not for this model.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise ResourceError(f"{folder} is not a PEFT adapter that can be read: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA" or config.get("use_dora"):
        raise ResourceError(f"{folder}: expected a plain LoRA adapter, found {config.get('peft_type')!r}")
    found = {}
    for name, A in tensors.items():
        if not name.endswith(".lora_A.weight"):
            continue
        named = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        path = named.removeprefix(f"{_inner(base)}.")
        B = tensors.get(name.replace(".lora_A.", ".lora_B."))
        try:
            base.model.get_submodule(path)
        except AttributeError:
            raise ResourceError(f"{folder}: {named} is not a layer of {base.name}") from None
        if B is None or A.shape[0] != B.shape[1]:
            raise ResourceError(f"{folder}: lora_A and lora_B of {named} do not fit together")
        alphas: dict[str, float] = config.get("alpha_pattern") or {}
        alpha = float(alphas[named] if named in alphas else config["lora_alpha"])
        scale = alpha / (A.shape[0] ** 0.5 if config.get("use_rslora") else A.shape[0])
        found[path] = (A.to(torch.float32), B.to(torch.float32), scale)
    if not found:
        raise ResourceError(f"{folder} holds no LoRA tensors")
    return found


def _inner(base: FrozenBase) -> str:
    """Name of the base model inside its causal-LM class: ``transformer`` for GPT-2, ``model`` for LLaMA."""
    return str(base.model.base_model_prefix)
