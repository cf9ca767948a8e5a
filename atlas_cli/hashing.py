"""Content hashes of tensors, files and texts, all SHA-256 in lower-case hex."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from atlas_cli.errors import ResourceError

if TYPE_CHECKING:
    from torch import Tensor


def sha256_text(text: str) -> str:
    """Hash of the UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: str | Path) -> str:
    """Hash of a file's bytes, read in pieces.

    Raises:
        ResourceError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ResourceError(f"cannot read {path}: {error.strerror}") from error


def sha256_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names, dtypes, shapes and raw bytes; neither the mapping's order, strides, nor the device matter.

    Equal hashes mean equal bits: 0.0 and -0.0 differ.
    """
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        # The header fixes how many bytes follow, so two different sets never give one byte stream.
        header = json.dumps([name, str(tensor.dtype), list(tensor.shape)])
        digest.update(header.encode() + b"\n")
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
