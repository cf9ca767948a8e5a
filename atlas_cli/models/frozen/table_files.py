"""The file in which a model's table of embeddings is, for those who hold rows of it alone."""

from __future__ import annotations

import atexit
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from atlas_cli.config.schema.experiment import ModelConfig
from atlas_cli.errors import ResourceError
from atlas_cli.hashing import sha256_tensors
from atlas_cli.models.files.resolve import model_config
from atlas_cli.models.files.weight_files import weight_names
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.frozen.row_embedding import TableFile
from atlas_cli.storage.cached_folders import cache_dir
from atlas_cli.storage.scratch_folders import CACHED, Scratch, clear

_TENSOR = "embeddings"


def table_file(model: ModelConfig, base: FrozenBase) -> TableFile:
    """The model's own file, if a tensor there is the table of ``base`` in its dtype.

    Else, as where weights are random, a file in the cache that is removed when this process ends.

    Args:
        model: what ``base`` was loaded from.

    Raises:
        ResourceError: that file cannot be written.
    """
    table: Tensor = base.model.get_input_embeddings().weight.detach().cpu()  # type: ignore[operator]
    _, source, _ = model_config(model)
    files = weight_names(source.converted(), base.family) if source is not None else {}
    for name, path in files.items():
        with safe_open(path, "pt") as opened:
            if tuple(opened.get_slice(name).get_shape()) != tuple(table.shape):
                continue
            if torch.equal(opened.get_tensor(name).to(table.dtype), table):
                return TableFile.at(path, name, table.dtype)
    return _written(table)


def _written(table: Tensor) -> TableFile:
    tensors, folder = {_TENSOR: table.contiguous()}, cache_dir() / "tables"
    try:
        path = _scratch(folder) / f"{sha256_tensors(tensors)}.safetensors"
        if not path.exists():
            save_file(tensors, path)
    except (OSError, SafetensorError) as error:
        raise ResourceError(
            f"embedding: rows keeps the table of embeddings in a file under {folder}, which cannot be written "
            f"({getattr(error, 'strerror', None) or error}); set ATLAS_CACHE to a folder with room for "
            f"{table.nbytes:,} bytes"
        ) from None
    return TableFile.at(path, _TENSOR, table.dtype)


@cache
def _scratch(parent: Path) -> Path:
    """A folder of this process's own."""
    clear(parent, CACHED)
    folder = Scratch(parent, CACHED)
    atexit.register(folder.close)
    return folder.path
