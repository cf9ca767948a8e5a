"""Named tensors in files that only this process reads, each checked by hash when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from atlas_cli.hashing import sha256_tensors
from atlas_cli.storage.scratch_folders import Scratch


class TensorFiles:
    """Safetensors files by key, readable by their owner alone, in a folder that is created with the first file.

    A key stands for one content: a file that was read and removed may be there under that key again.

    Args:
        parent: where the folder is created; ``close`` removes it.
        kind: of folder (``scratch_folders``).
    """

    def __init__(self, parent: Path, kind: str) -> None:
        self.parent, self.kind = parent, kind
        self._folder: Scratch | None = None
        self._removed: set[Path] = set()  # and still there, as somebody maps them

    def path(self, key: str) -> Path:
        """The path of a key's file."""
        if self._folder is None:
            self._folder = Scratch(self.parent, self.kind)
        return self._folder.path / f"{key}.safetensors"

    def write(self, key: str, tensors: Mapping[str, Tensor]) -> int:
        """Write a file and return its size in bytes; a file that cannot be written whole is removed.

        Raises:
            OSError: no room or no permission.
        """
        path = self.path(key)
        if path in self._removed:
            self._removed.remove(path)
            return path.stat().st_size
        try:
            path.touch(mode=0o600)
            return path.write_bytes(save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))
        except OSError:
            path.unlink(missing_ok=True)
            raise

    def read(self, key: str, sha256: str) -> dict[str, Tensor]:
        """The tensors of a file, mapped, so that they take no memory; they stay readable when it is removed.

        Raises:
            OSError: the file cannot be read, or was changed.
        """
        try:
            tensors = load_file(self.path(key))
        except SafetensorError as error:
            raise OSError(str(error)) from None
        if sha256_tensors(tensors) != sha256:
            raise OSError("it was changed (by hash)")
        return tensors

    def remove(self, key: str) -> None:
        """Remove a file; on Windows, which keeps a file that is mapped, with a later one, or at ``close``."""
        self._removed.add(self.path(key))
        for path in list(self._removed):
            with suppress(PermissionError):
                path.unlink(missing_ok=True)
                self._removed.remove(path)

    def close(self) -> None:
        """Remove all files and their folder."""
        if self._folder is not None:
            self._folder.close()
            self._folder = None
            self._removed.clear()
