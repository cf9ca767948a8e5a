"""GGUF files: converted once to a folder of safetensors, which is kept in the cache under the hash of the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from atlas_cli.errors import ResourceError
from atlas_cli.extras import install_command
from atlas_cli.notes import say
from atlas_cli.storage.cached_folders import cache_dir, damage, describe, known_sha256
from atlas_cli.storage.moving import move
from atlas_cli.storage.scratch_folders import CACHED, Scratch, clear

CONVERSION = 2  # raised where a file would be converted otherwise, or refused


def folder_of(file: Path) -> Path:
    """The folder of a file's conversion, which may not exist yet."""
    return cache_dir() / "converted" / f"{file.stem[:100]}-{known_sha256(file)[:16]}-v{CONVERSION}"


def is_converted(file: Path) -> bool:
    """Whether the conversion is in the cache and is by hash what was written, by this version of transformers; reading
    it is much faster than reading the file."""
    return damage(folder_of(file), _made_of(file)) is None


def require_reader(file: Path) -> None:
    """Check that the packages that read GGUF are installed.

    Raises:
        ResourceError: one is not; says how to install it.
    """
    for package in ("gguf", "accelerate"):
        if find_spec(package) is None:
            raise ResourceError(f"reading {file.name} needs the {package} package: {install_command('gguf')}")


def converted(file: Path) -> Path:
    """The folder of the converted file, which is converted now if it was not before.

    Raises:
        ResourceError: damaged, an architecture or quantization that transformers cannot read, or no gguf package.
    """
    if is_converted(file):
        return folder_of(file)
    require_reader(file)
    target = folder_of(file)
    if target.exists():
        what = damage(target, _made_of(file))
        say(f"note: {target} cannot be used ({what}); converting {file} anew")
    clear(target.parent, CACHED)
    with Scratch(target.parent, CACHED) as scratch:
        place = scratch / "model"
        try:
            _convert(file, place)
        except ResourceError:
            raise
        except Exception as error:  # readers of a damaged or unknown file raise exceptions of many kinds
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise ResourceError(f"GGUF file {file} cannot be converted: {why}") from None
        describe(place, _made_of(file))
        if target.exists() and not is_converted(file):  # else another process was faster
            move(target, scratch / "damaged")
        if not target.exists():
            move(place, target)
    return target


def _made_of(file: Path) -> dict[str, str]:
    return {"gguf_sha256": known_sha256(file), "transformers": transformers.__version__}


@contextmanager
def read_once(file: Path) -> Iterator[Any]:
    """Within it, all that reads the file shares one reader: with a large vocabulary each takes long to make."""
    import gguf

    class Reader(gguf.GGUFReader):  # type: ignore[misc, name-defined, unused-ignore]
        """Cuts the metadata out of a plain array, which is four times as fast as out of a mapped one."""

        @property
        def data(self) -> np.ndarray:
            return self._plain

        @data.setter
        def data(self, mapped: np.ndarray) -> None:
            self._plain = mapped.view(np.ndarray)

    reader, own = Reader(file), gguf.GGUFReader
    gguf.GGUFReader = lambda *_, **__: reader  # transformers asks the module for it at each reading
    try:
        yield reader
    finally:
        gguf.GGUFReader = own


def _convert(file: Path, place: Path) -> None:
    with read_once(file) as reader:
        _convert_from(reader, file, place)


def _convert_from(reader: Any, file: Path, place: Path) -> None:
    held = numbers_in(reader, file)
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    whole, found = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, output_loading_info=True)
    if found["missing_keys"]:  # which transformers fills with random numbers
        raise ResourceError(f"GGUF file {file} is incomplete: {min(found['missing_keys'])} is missing")
    read = sum(parameter.numel() for parameter in whole.parameters())  # tied ones once
    output = held.pop("output.weight", 0) if whole.config.tie_word_embeddings else 0
    if sum(held.values()) != read:
        raise ResourceError(
            f"GGUF file {file} holds {sum(held.values()) + output} numbers, of which transformers reads {read}: it "
            f"would compute another model than {type(whole).__name__}; give the model's safetensors"
        )
    # a GGUF load leaves a quantizer behind that save_pretrained refuses to write
    whole.hf_quantizer = None
    if hasattr(whole.config, "quantization_config"):
        del whole.config.quantization_config
    whole.save_pretrained(place)
    AutoTokenizer.from_pretrained(**source).save_pretrained(place)


def numbers_in(reader: Any, file: Path) -> dict[str, int]:
    """The number of elements of each tensor in a file, by name, from its reader.

    Raises:
        ResourceError: rotary positions are scaled, which transformers passes over in GGUF files.
    """
    tensors = {str(tensor.name): int(tensor.n_elements) for tensor in reader.tensors}
    scaled = [name for name in tensors if name.startswith(("rope_freqs", "rope_factors"))]
    for name, stored in reader.fields.items():
        if ".rope.scaling." in name and stored.contents() not in ("none", 0, 1):
            scaled.append(name)
    if scaled:
        raise ResourceError(
            f"GGUF file {file} scales its rotary positions ({min(scaled)}), which transformers does not read from "
            "GGUF: it would compute another model; give the model's safetensors"
        )
    return tensors
