"""Reads a LoRA adapter folder as PEFT does: all of it is used, or it is refused with the name of what cannot be."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from atlas_cli.errors import ResourceError
from atlas_cli.models.adapters.checksums import check_folder
from atlas_cli.models.adapters.lora import features_of
from atlas_cli.models.adapters.origin import ORIGIN
from atlas_cli.models.adapters.peft_format import CONFIG, HEAD, LORA_A, LORA_B, PREFIX, TENSORS, inner_name
from atlas_cli.models.adapters.peft_options import PeftOptions, read_options
from atlas_cli.models.files.weight_files import not_finite
from atlas_cli.models.frozen.load import FrozenBase

Factors = tuple[Tensor, Tensor, float]


def read_peft(folder: str | Path, base: FrozenBase) -> dict[str, Factors]:
    """Read a PEFT LoRA folder as ``{path in the base: (A (r, d_in), B (d_out, r), scale)}``.

    Tensors besides the factors must be the base's own, as PEFT saves those of embeddings.

    Raises:
        ResourceError: not a plain LoRA adapter, damaged, or not for this model.
    """
    folder = Path(folder)
    check_folder(folder, (CONFIG, TENSORS, HEAD, ORIGIN))
    _require_adapter(folder)
    options = read_options(folder / CONFIG)
    tensors = _read_tensors(folder / TENSORS)
    layers = dict.fromkeys(n.removesuffix(LORA_A).removesuffix(LORA_B) for n in tensors if n.endswith((LORA_A, LORA_B)))
    if not layers:
        raise ResourceError(f"{folder} holds no LoRA tensors")
    found = {name.removeprefix(PREFIX): _factors(name, tensors, options, folder, base) for name in layers}
    within = f"{inner_name(base)}." if all(name.startswith(f"{inner_name(base)}.") for name in found) else ""
    _require_nothing_else(folder, tensors, base, within)
    _require_targets(folder, options, found.keys(), base.model, within)
    return {name.removeprefix(within): factors for name, factors in found.items()}


def read_head(folder: Path) -> dict[str, Tensor]:
    """Read the parameters of a head stored beside an adapter; empty if there is none.

    Raises:
        ResourceError: damaged.
    """
    file = folder / HEAD
    return _read_tensors(file) if file.is_file() else {}


def _require_adapter(folder: Path) -> None:
    """Require an adapter's files in a folder, or say what the folder holds instead."""
    if (folder / CONFIG).is_file() and not (folder / TENSORS).is_file() and (folder / "adapter_model.bin").is_file():
        raise ResourceError(
            f"{folder} holds adapter_model.bin, a pickle, which atlas never reads; save it again with "
            "safe_serialization=True"
        )
    if (folder / CONFIG).is_file():
        return
    if not folder.is_dir():
        found = "is a file" if folder.is_file() else "does not exist"
        raise ResourceError(f"{folder} {found}; expected a folder that PEFT's save_pretrained or a run wrote")
    if (folder / "config.json").is_file():
        raise ResourceError(f"{folder} is a whole model and not an adapter; give it as model.name")
    inner = sorted(file.parent.name for file in folder.glob(f"*/{CONFIG}"))
    hint = f", its folder {inner[-1]} has one; give that" if inner else "; expected a folder that PEFT or a run wrote"
    raise ResourceError(f"{folder} has no {CONFIG}{hint}")


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise ResourceError(f"{file.parent} is not a PEFT adapter that can be read: {file.name}: {error}") from None
    if other := [name for name, value in tensors.items() if not value.is_floating_point()]:
        raise ResourceError(f"{file}: {other[0]} is not of floating-point numbers: {tensors[other[0]].dtype}")
    if name := not_finite(tensors):
        raise ResourceError(f"{file}: {name} holds values that are not finite numbers; the adapter is of no use")
    return tensors


def _factors(name: str, tensors: Mapping[str, Tensor], options: PeftOptions, folder: Path, base: FrozenBase) -> Factors:
    if not name.startswith(PREFIX):
        raise ResourceError(f"{folder / TENSORS}: {name} does not begin with {PREFIX}, and PEFT would not load it")
    named = name.removeprefix(PREFIX)
    try:
        d_in, d_out = features_of(base.model.get_submodule(named.removeprefix(f"{inner_name(base)}.")))
    except (AttributeError, TypeError):
        raise ResourceError(f"{folder}: {named} is not a linear layer of {base.name}") from None
    A, B = tensors.get(name + LORA_A), tensors.get(name + LORA_B)
    rank = A.shape[0] if A is not None and A.dim() == 2 else 0
    if A is None or B is None or not rank or A.shape[1] != d_in or B.shape != (d_out, rank):
        raise ResourceError(f"{folder}: lora_A and lora_B of {named} do not fit together, or not to {base.name}")
    if rank != options.rank(named):
        raise ResourceError(f"{folder}: {named} has rank {rank}, and {CONFIG} says {options.rank(named)}")
    return A.to(torch.float32), B.to(torch.float32), options.scale(named)


def _require_nothing_else(folder: Path, tensors: Mapping[str, Tensor], base: FrozenBase, within: str) -> None:
    """Require that tensors stored besides the factors equal the base's own."""
    held = {f"{within}{name}": tensor for name, tensor in base.model.state_dict().items()}
    if base.lm_head is not None:
        held |= {f"lm_head.{name}": tensor for name, tensor in base.lm_head.state_dict().items()}
    elif base.family.causal and base.model.device.type == "meta":  # a plan keeps no output embedding
        held["lm_head.weight"] = cast(Any, base.model).get_input_embeddings().weight
    for name in (name for name in tensors if not name.endswith((LORA_A, LORA_B))):
        own = held.get(name.removeprefix(PREFIX))
        if own is None or not _same(tensors[name], own):
            raise ResourceError(
                f"{folder / TENSORS}: {name} is trained besides the adapters and would be left out; atlas starts from "
                "LoRA factors of linear layers alone"
            )


def _same(stored: Tensor, own: Tensor) -> bool:
    # a plan has shapes and no weights
    return stored.shape == own.shape and (own.is_meta or torch.equal(stored.to(own), own))


def _require_targets(folder: Path, options: PeftOptions, found: Collection[str], model: nn.Module, within: str) -> None:
    """Require factors of exactly the layers to which PEFT would give adapters."""
    layers = {f"{within}{path}" for path, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    for name in found:
        if name not in layers:
            raise ResourceError(f"{folder / TENSORS}: {name} is of another model class than the first tensors are")
        if not options.adapts(name):
            raise ResourceError(
                f"{folder / TENSORS} has factors of {name}, which the target_modules and layers of {CONFIG} leave out, "
                "as PEFT would"
            )
    for name in sorted(layers):
        if options.adapts(name) and name not in found:
            raise ResourceError(f"{folder / TENSORS} has no factors of {name}, which target_modules of {CONFIG} names")
