"""A content-addressed store of named tensors: equal sets are kept once, in memory up to a limit, then in files."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from atlas_cli.errors import AtlasError
from atlas_cli.hashing import sha256_tensors
from atlas_cli.storage.tensor_files import TensorFiles
from atlas_cli.storage.writing import writing

Tensors = dict[str, Tensor]


@dataclass
class _Entry:
    """A set of tensors: how often it is referred to, its bytes, and the tensors where they are in memory."""

    holders: int
    bytes: int
    tensors: Tensors | None


class TensorStore:
    """Sets of tensors by their SHA-256, each kept while its reference count is above zero.

    Args:
        memory: bytes of tensors that stay in memory; those stored or read last stay.
        files: where the others are written; None if all stay in memory.

    Attributes:
        memory_bytes, disk_bytes: present bytes of tensors.
        peak_disk_bytes: the largest so far.
    """

    def __init__(self, memory: int = 0, files: TensorFiles | None = None) -> None:
        self.memory, self.files = memory, files
        self.memory_bytes = self.disk_bytes = self.peak_disk_bytes = 0
        self._entries: dict[str, _Entry] = {}
        self._in_memory: OrderedDict[str, _Entry] = OrderedDict()  # the longest unused first

    def put(self, tensors: Mapping[str, Tensor], sha256: str | None = None) -> str:
        """Store copies of tensors on the CPU; returns their key, which is their hash.

        Args:
            sha256: of the tensors, where it is known.

        Raises:
            OutputError: what no longer fits in memory cannot be written.
        """
        key = sha256 if sha256 is not None else sha256_tensors(tensors)
        if key in self._entries:
            self.hold(key)
            return key
        own = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        size = sum(t.numel() * t.element_size() for t in own.values())
        self._entries[key] = self._in_memory[key] = _Entry(1, size, own)
        self.memory_bytes += size
        if self.files is not None:
            self._make_room(self.files)
        return key

    def hold(self, key: str, times: int = 1) -> None:
        """Add references to a set."""
        self._entries[key].holders += times

    def release(self, key: str, times: int = 1) -> None:
        """Drop references to a set; the set is removed with the last one."""
        entry = self._entries[key]
        entry.holders -= times
        if entry.holders:
            return
        del self._entries[key]
        if entry.tensors is not None:
            del self._in_memory[key]
            self.memory_bytes -= entry.bytes
        elif self.files is not None:
            self.files.remove(key)
            self.disk_bytes -= entry.bytes

    def get(self, key: str) -> Tensors:
        """The tensors of a key, which must not be written to.

        Raises:
            AtlasError: their file was changed.
        """
        entry = self._entries[key]
        if entry.tensors is not None:
            self._in_memory.move_to_end(key)
            return entry.tensors
        assert self.files is not None
        try:
            return self.files.read(key, key)
        except OSError as error:
            raise AtlasError(
                f"{self.files.path(key)}, which holds clients that are away, cannot be read: {error}; go on from the "
                "last checkpoint"
            ) from None

    def check(self, key: str) -> None:
        """Hash the tensors of a key again.

        Raises:
            AtlasError: they, or their file, were changed.
        """
        if sha256_tensors(self.get(key)) != key:
            raise AtlasError(f"a state of idle clients is not what was stored: its hash is not {key} any more")

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def record(self) -> dict[str, object]:
        """For the manifest."""
        return {name: getattr(self, name) for name in ("memory_bytes", "disk_bytes", "peak_disk_bytes")}

    def close(self) -> None:
        """Drop all sets and remove the files."""
        self._entries.clear()
        self._in_memory.clear()
        if self.files is not None:
            self.files.close()

    def _make_room(self, files: TensorFiles) -> None:
        while self.memory_bytes > self.memory:
            key, entry = next(iter(self._in_memory.items()))
            with writing(files.parent):
                files.write(key, self._in_memory[key].tensors or {})
            entry.tensors = None
            del self._in_memory[key]
            self.memory_bytes -= entry.bytes
            self.disk_bytes += entry.bytes
            self.peak_disk_bytes = max(self.peak_disk_bytes, self.disk_bytes)
