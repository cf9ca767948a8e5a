"""GGUF files: converted once to a folder of safetensors, which is kept in the cache under the hash of the file."""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from atlas_cli.data.packages import cache_dir
from atlas_cli.errors import ResourceError
from atlas_cli.runs.hashing import sha256_file


def folder_of(file: Path) -> Path:
    """Where a file's conversion is, once there is one."""
    return cache_dir() / "converted" / f"{file.stem}-{sha256_file(file)[:16]}"


def is_converted(file: Path) -> bool:
    """Whether the conversion is in the cache; reading it is much faster than reading the file."""
    return (folder_of(file) / "config.json").is_file()


def require_reader(file: Path) -> None:
    """Check that the package that reads GGUF is there.

    Raises:
        ResourceError: it is not; says how to install it.
    """
    if find_spec("gguf") is None:
        raise ResourceError(f"reading {file.name} needs the gguf package: pip install -c constraints.txt -e '.[gguf]'")


def converted(file: Path) -> Path:
    """The conversion, made now where there is none.

    Raises:
        ResourceError: damaged, an architecture or quantization that transformers cannot read, or no gguf package.
    """
    if is_converted(file):
        return folder_of(file)
    require_reader(file)
    target = folder_of(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        place = Path(scratch) / "model"
        try:
            _convert(file, place)
        except Exception as error:  # readers of a damaged or unknown file raise exceptions of many kinds
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise ResourceError(f"GGUF file {file} cannot be converted: {why}") from None
        if not target.exists():
            os.replace(place, target)
    return target


def _convert(file: Path, place: Path) -> None:
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    whole = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # a GGUF load leaves a quantizer behind that save_pretrained refuses to write
    whole.hf_quantizer = None
    if hasattr(whole.config, "quantization_config"):
        del whole.config.quantization_config
    whole.save_pretrained(place)
    AutoTokenizer.from_pretrained(**source).save_pretrained(place)
