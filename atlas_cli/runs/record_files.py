"""Writes the records of a run, and keeps the length and hash of each file as written.

The hashes are those of the bytes written, not of the present content of the disk.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.seals import LINES, MEMORY, SUMS, Seal, Seals, line_sum, require_prefix
from atlas_cli.storage.writing import writing

if TYPE_CHECKING:
    from hashlib import _Hash


class RecordFiles:
    """The record files of one run that is being written.

    Attributes:
        memory_is_missing: memory.json was missing when the run was resumed, and must be measured again.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run, self.memory_is_missing = run, False
        self._written: dict[str, tuple[int, _Hash]] = {}
        self._sums: list[dict[str, str]] = []  # of what was added since the last seal

    @classmethod
    def of_checkpoint(cls, run: RunDirectory, seals: Seals) -> RecordFiles:
        """The files as they were at a checkpoint; nothing is changed before ``cut``.

        Raises:
            ResourceError: a file does not begin with the content sealed by then.
        """
        files = cls(run)
        files.memory_is_missing = MEMORY in seals and not (run.path / MEMORY).exists()
        for name, seal in seals.items():
            if name != MEMORY or not files.memory_is_missing:
                files._written[name] = seal.bytes, require_prefix(run.path, name, seals)
        return files

    def cut(self) -> str | None:
        """Cut off the lines written after the checkpoint; returns a description, None if there were none."""
        lost = []
        for name in LINES:
            path, kept = self.run.path / name, self._written.get(name, (0, None))[0]
            if not path.exists() or path.stat().st_size <= kept:
                continue
            with writing(path):
                if name != SUMS:
                    lost.append(f"{_lines_after(path, kept)} of {name}")
                if name in self._written:
                    os.truncate(path, kept)
                else:
                    path.unlink()
        return f"lines of later rounds cut off: {', '.join(lost)}" if lost else None

    def append(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Add lines to a file: all, or none.

        Raises:
            OutputError: the disk is full, or the folder cannot be written.
        """
        if lines := self._append(name, records).splitlines(keepends=True):
            self._sums.append({"file": name, "crc32": "".join(map(line_sum, lines))})

    def write_json(self, name: str, obj: Any) -> None:
        """Write a file whole.

        Raises:
            OutputError: as ``append``.
        """
        content = self.run.write_json(name, obj)
        self._written[name] = len(content), hashlib.sha256(content)

    def seal(self) -> Seals:
        """Lengths and hashes of all files as they are now, after the sums of new lines were written.

        Raises:
            OutputError: as ``append``.
        """
        if self._sums:
            self._append(SUMS, self._sums)
            self._sums = []
        return {name: Seal(size, hasher.hexdigest()) for name, (size, hasher) in self._written.items()}

    def _append(self, name: str, records: Iterable[Mapping[str, Any]]) -> bytes:
        content = self.run.append(name, records)
        size, hasher = self._written.get(name) or (0, hashlib.sha256())
        hasher.update(content)
        self._written[name] = size + len(content), hasher
        return content


def _lines_after(path: os.PathLike[str], start: int) -> int:
    """Lines from a byte on, a torn one at the end counted."""
    with open(path, "rb") as file:
        file.seek(start)
        return sum(1 for _ in file)
