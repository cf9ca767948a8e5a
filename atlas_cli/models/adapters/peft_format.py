"""Adapters in PEFT's own format: a folder that stock ``peft`` loads. ``peft_reading`` is the way back.

Names in the file are PEFT's (``base_model.model.<path>.lora_A.weight``). The base model that they belong to is the
one that ``AutoModel`` gives, or ``AutoModelForCausalLM`` for a language-modelling task. A trained head is stored
beside it in head.safetensors, what both belong to in origin.json, and hashes of all files in SHA256SUMS.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from safetensors.torch import save
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from atlas_cli.models.adapters.checksums import SUMS, checksums
from atlas_cli.models.adapters.lora import AdapterSet
from atlas_cli.models.adapters.origin import ORIGIN, Origin
from atlas_cli.models.frozen.load import FrozenBase

PREFIX = "base_model.model."
CONFIG, TENSORS, HEAD = "adapter_config.json", "adapter_model.safetensors", "head.safetensors"
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"


def peft_files(
    base: FrozenBase,
    adapters: AdapterSet,
    *,
    alpha: float,
    dropout: float,
    rslora: bool,
    causal_lm: bool,
    head: Mapping[str, Tensor],
    origin: Origin,
) -> dict[str, bytes]:
    """The files of a PEFT adapter folder, by name.

    Args:
        causal_lm: whether names are those of ``AutoModelForCausalLM`` instead of ``AutoModel``.
        head: parameters of a trained head; may be empty.
        origin: what adapters and head belong to.
    """
    files = lora_files(
        base,
        adapters,
        within=inner_name(base) if causal_lm else "",
        task_type="CAUSAL_LM" if causal_lm else "FEATURE_EXTRACTION",
        base_name=origin.base_name,
        revision=origin.revision,
        alpha=alpha,
        dropout=dropout,
        rslora=rslora,
    )
    files[ORIGIN] = origin.content()
    if head:
        files[HEAD] = save({n: t.detach().cpu().contiguous() for n, t in head.items()})
    return {**files, SUMS: checksums(files)}


def lora_files(
    base: FrozenBase,
    adapters: AdapterSet,
    *,
    within: str,
    task_type: str,
    base_name: str,
    revision: str | None,
    alpha: float,
    dropout: float,
    rslora: bool,
    saved: Mapping[str, Tensor] = MappingProxyType({}),
    saved_modules: Sequence[str] = (),
) -> dict[str, bytes]:
    """The two files that PEFT reads, by name.

    Args:
        within: where the base is in the class that PEFT puts the adapter on: ``transformer`` in ``GPT2LMHeadModel``.
        task_type: PEFT's name of that class.
        base_name, revision: what PEFT loads as the base.
        saved, saved_modules: tensors that replace those of the class by their names there, and the modules that have
            them: PEFT's ``modules_to_save``.
    """
    inner = f"{within}." if within else ""
    tensors: dict[str, Tensor] = {}
    for path, adapter in adapters.adapters.items():
        tensors[f"{PREFIX}{inner}{path}{LORA_A}"] = adapter.lora_A.detach().cpu().contiguous()
        tensors[f"{PREFIX}{inner}{path}{LORA_B}"] = adapter.lora_B.detach().cpu().contiguous()
    tensors |= {f"{PREFIX}{name}": tensor.detach().cpu().contiguous() for name, tensor in saved.items()}
    ranks = {f"{inner}{path}": adapter.rank for path, adapter in adapters.adapters.items()}
    common = max(ranks.values())
    first = base.model.get_submodule(next(iter(adapters.adapters)))
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_name,
        "revision": revision,
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
        **({"modules_to_save": list(saved_modules)} if saved_modules else {}),
    }
    return {
        CONFIG: (json.dumps(config, indent=2) + "\n").encode(),
        TENSORS: save(tensors, metadata={"format": "pt"}),
    }


def inner_name(base: FrozenBase) -> str:
    """The attribute of the base model in its causal-LM class: ``transformer`` for GPT-2, ``model`` for LLaMA."""
    return str(base.model.base_model_prefix)
