"""Named tensors by what they are: equal sets are kept once, in memory up to a limit and in files beyond it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from atlas_cli.errors import AtlasError
from atlas_cli.hashing import sha256_tensors
from atlas_cli.storage.scratch_folders import OFFLOAD, Scratch
from atlas_cli.storage.writing import writing

Tensors = dict[str, Tensor]


@dataclass
class _Kept:
    """A set of tensors: how often it is referred to, its bytes, and where it is: in memory, else in its file."""

    holders: int
    bytes: int
    tensors: Tensors | None


class ContentStore:
    """Sets of tensors by hash, each as long as anybody refers to it.

    What was put or read last stays in memory. Files are safetensors, readable by their owner alone.

    Args:
        memory: bytes of tensors that stay in memory.
        parent: where a folder is made for the files, once there is one; ``close`` removes it.

    Attributes:
        memory_bytes, disk_bytes: of tensors, now; ``peak_disk_bytes``: at most.
    """

    def __init__(self, memory: int, parent: Path) -> None:
        self.memory, self.parent = memory, parent
        self.memory_bytes = self.disk_bytes = self.peak_disk_bytes = 0
        self._kept: dict[str, _Kept] = {}
        self._in_memory: OrderedDict[str, _Kept] = OrderedDict()  # the longest unused first
        self._folder: Scratch | None = None

    def put(self, tensors: Mapping[str, Tensor]) -> str:
        """Keep copies of tensors, on the CPU; the key to ask for them by.

        Raises:
            OutputError: what no longer fits in memory cannot be written.
        """
        key = sha256_tensors(tensors)
        if key in self._kept:
            self.hold(key)
            return key
        own = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        size = sum(t.numel() * t.element_size() for t in own.values())
        self._kept[key] = self._in_memory[key] = _Kept(1, size, own)
        self.memory_bytes += size
        self._make_room()
        return key

    def hold(self, key: str) -> None:
        """Refer to a set once more."""
        self._kept[key].holders += 1

    def release(self, key: str) -> None:
        """Refer to a set no longer; the last to do so removes it."""
        kept = self._kept[key]
        kept.holders -= 1
        if kept.holders:
            return
        del self._kept[key]
        if kept.tensors is None:
            self._file(key).unlink(missing_ok=True)
            self.disk_bytes -= kept.bytes
        else:
            del self._in_memory[key]
            self.memory_bytes -= kept.bytes

    def get(self, key: str) -> Tensors:
        """The tensors of a key, not to be written to; those of a file are mapped, so that they take no memory.

        They stay readable when the set is removed.

        Raises:
            AtlasError: the file is not what was written.
        """
        kept = self._kept[key]
        if kept.tensors is not None:
            self._in_memory.move_to_end(key)
            return kept.tensors
        try:
            tensors = load_file(self._file(key))
        except (OSError, SafetensorError) as error:
            raise AtlasError(f"{self._file(key)}, which holds clients that are away, cannot be read: {error}") from None
        if sha256_tensors(tensors) != key:
            raise AtlasError(
                f"{self._file(key)}, which holds clients that are away, was changed (by hash); go on from the last "
                "checkpoint"
            )
        return tensors

    def record(self) -> dict[str, object]:
        """For the manifest."""
        return {name: getattr(self, name) for name in ("memory_bytes", "disk_bytes", "peak_disk_bytes")}

    def close(self) -> None:
        """Forget everything and remove the files."""
        self._kept.clear()
        self._in_memory.clear()
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def _make_room(self) -> None:
        while self.memory_bytes > self.memory:
            key, kept = next(iter(self._in_memory.items()))
            assert kept.tensors is not None
            self._write(key, kept.tensors)
            kept.tensors = None
            del self._in_memory[key]
            self.memory_bytes -= kept.bytes
            self.disk_bytes += kept.bytes
            self.peak_disk_bytes = max(self.peak_disk_bytes, self.disk_bytes)

    def _write(self, key: str, tensors: Tensors) -> None:
        with writing(self.parent):
            if self._folder is None:
                self._folder = Scratch(self.parent, OFFLOAD)
            path = self._file(key)
            try:
                path.touch(mode=0o600)
                path.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
            except OSError:
                path.unlink(missing_ok=True)
                raise

    def _file(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder.path / f"{key}.safetensors"
