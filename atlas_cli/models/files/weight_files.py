"""Checks the files of a model's weights: all are safetensors, and each tensor in them is used."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.models.files.quantized_checkpoints import instead, method_of_tensor
from atlas_cli.models.files.source import Source, read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# transformers reads these in place of the others, through torch.distributed
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
_FLOATS = ("F64", "F32", "F16", "BF16")
# first parts of the names of heads, which stand beside the base model in a file without its prefix
_HEADS = (
    *("cls", "classifier", "dropout", "lm_head", "logits_proj", "multiple_choice_head", "pooler", "pre_classifier"),
    *("predictions", "qa_outputs", "score", "seq_relationship", "v_head"),
    *("vocab_layer_norm", "vocab_projector", "vocab_transform"),
)
_SHOWN = 3


def weight_names(source: Source, family: BaseFamily) -> dict[str, Path]:
    """The file of every tensor, by name; empty if there are no safetensors, which the loader reports.

    Raises:
        ConfigError: an index that names files of another kind or place, a tensor twice, or one that is not of floats.
        ResourceError: an index or a file that cannot be read or is not there.
        SafetensorError: a file is damaged.
    """
    found: dict[str, Path] = {}
    for file in _files(source):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118, it is no mapping
                if name in found:
                    raise ConfigError(f"{file}: {name} is in {found[name].name}, too", key="model.name")
                found[name] = file
                kind = opened.get_slice(name).get_dtype()
                if kind not in _FLOATS and not name.endswith(family.buffers):
                    method = method_of_tensor(name, kind)
                    by = f", as {method} writes it" if method else ""
                    raise ConfigError(f"{file}: {name} holds {kind}{by}; {instead()}", key="model.name")
    return found


def _files(source: Source) -> list[Path]:
    if source.kind != "hub":
        for entry in sorted(Path(source.path).iterdir()):
            if _DISTRIBUTED.fullmatch(entry.name):
                raise ConfigError(
                    f"{entry} is a part of a distributed checkpoint, which atlas does not read; save the model with "
                    "save_pretrained",
                    key="model.name",
                )
    single = source.file(SINGLE)
    if single is not None:
        return [single]
    index = source.file(INDEX)
    if index is None:
        return []
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise ConfigError(f"{index}: weight_map does not give the file of each tensor", key="model.name")
    return [_shard(source, index, name) for name in sorted(set(named.values()))]


def _shard(source: Source, index: Path, name: str) -> Path:
    """Check a file that an index names before it is opened."""
    if not name.endswith(".safetensors"):
        raise ConfigError(
            f"{index}: weight_map names {name:.200}; atlas reads safetensors only, as files of other kinds may hold "
            "pickled code: convert the weights with save_pretrained",
            key="model.name",
        )
    if name in (".safetensors",) or PurePosixPath(name).name != name or PureWindowsPath(name).name != name:
        raise ConfigError(f"{index}: weight_map names {name:.200}, which is not beside it", key="model.name")
    file = source.file(name)
    if file is None:
        raise ResourceError(f"model.name: {index} names {name:.200}, which is not there; the download is incomplete")
    return file


def left_out(
    folder: str, whole: Any, family: BaseFamily, files: dict[str, Path], unexpected: Collection[str]
) -> tuple[str, ...]:
    """The tensors that the model does not use; those of a head may be left out, as atlas has heads of its own.

    Args:
        whole: the model that was loaded.
        files: of every tensor, by the name that it has there.
        unexpected: names that transformers had no use for.

    Raises:
        ConfigError: one that belongs to the model, so that what is computed would be another one.
    """
    base, prefix = whole.base_model, f"{whole.base_model_prefix}."
    prefixed = any(name.startswith(prefix) for name in files)
    children = {name for name, _ in base.named_children()}

    def of_the_base(name: str) -> bool:
        first = name.removeprefix(prefix).partition(".")[0]
        if first in (*_HEADS, *family.unused):
            return False
        return name.startswith(prefix) or not prefixed or first in children

    unexpected = sorted(name for name in unexpected if not name.endswith(family.buffers))
    unread = [name for name in unexpected if of_the_base(name)]
    if unread:
        raise ConfigError(
            f"{folder}: {type(base).__name__} of transformers has no place for {named(unread)}; it would compute "
            "another model than the one that was saved: check config.json, or take another model",
            key="model.name",
        )
    _require_same_buffers(base, family.buffers, files)
    _require_once(whole, files, prefix)
    without = [name for name in files if name.removeprefix(prefix).partition(".")[0] in family.unused]
    return tuple(sorted({*unexpected, *without}))


def _require_same_buffers(base: nn.Module, buffers: tuple[str, ...], files: dict[str, Path]) -> None:
    """Check that positions and rotary frequencies in a file equal those that the model computes from its config."""
    held = {name.rpartition(".")[2]: tensor for name, tensor in base.named_buffers() if name.endswith(buffers)}
    for name, file in files.items():
        wanted = held.get(name.rpartition(".")[2])
        if wanted is None or not name.endswith(buffers):
            continue
        with safe_open(file, "pt") as opened:
            stored = opened.get_tensor(name).float().flatten()
        wanted = wanted.float().flatten().cpu()
        if stored.shape != wanted.shape or not torch.allclose(stored, wanted, rtol=0.01, atol=1e-4):  # of bfloat16
            raise ConfigError(
                f"{file}: {name} is not what transformers computes from config.json; it would compute another model "
                "than the one that was saved",
                key="model.name",
            )


def _require_once(whole: Any, files: dict[str, Path], prefix: str) -> None:
    """Check that no tensor has two names, with and without the base's prefix, and that tied tensors are equal."""
    counts = Counter(name.removeprefix(prefix) for name in files)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ConfigError(
            f"{files[prefix + twice[0]]}: {twice[0]} is there twice, also as {prefix}{twice[0]}; remove one",
            key="model.name",
        )
    output = whole.get_output_embeddings()
    if output is None or not getattr(whole.config, "tie_word_embeddings", False):
        return
    if not torch.equal(output.weight, whole.get_input_embeddings().weight):
        raise ConfigError(
            "config.json says tie_word_embeddings: true, and the files hold an output embedding that is not the input "
            "embedding; set it to false, or remove that tensor",
            key="model.name",
        )


def named(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"{name:.120}" for name in names[:_SHOWN]) + more


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first floating-point tensor with NaN or an infinity; None if all are finite."""
    return next((name for name, tensor in tensors.items() if not _is_finite(tensor)), None)


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
        return True
    values = tensor.detach()
    values = values.float() if values.element_size() == 1 else values  # few operations take 8-bit floats
    # the extremes make no copy of the size of the weights, and hand a NaN on
    return bool(torch.isfinite(torch.stack(torch.aminmax(values))).all())
