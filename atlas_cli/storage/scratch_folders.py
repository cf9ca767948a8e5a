"""Temporary folders of a process, each held by a lock.

The operating system frees the lock of a process that was killed, and a later process removes its folder: a run in
its ``output.dir``, and whoever writes to a folder of the cache in that folder.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from atlas_cli.errors import OutputError
from atlas_cli.storage.file_lock import LOCK, take

OFFLOAD, PREFIX_CACHE, CACHED = ".offload-", ".prefix-cache-", ".tmp-"
_PATIENCE = 1.0


class Scratch:
    """A new folder, readable by its owner alone, until ``close``; or inside a ``with``.

    Args:
        parent: made where it is missing.
        kind: what its name begins with: ``OFFLOAD``, ``PREFIX_CACHE`` or ``CACHED``.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, parent: Path, kind: str) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            self._folder = tempfile.TemporaryDirectory(prefix=kind, dir=parent, ignore_cleanup_errors=True)
            self.path, self._lock = Path(self._folder.name), None
            with suppress(OutputError):  # without locks on that file system nobody clears it, either
                self._lock = take(self.path / LOCK, _PATIENCE)
            if self.path.is_dir() and (self._lock is None or (self.path / LOCK).exists()):
                return
            self.close()  # another process took it for one that was left, in the moment before it was locked

    def close(self) -> None:
        """Remove it; on Windows, where somebody still maps a file of it, when the process ends."""
        if self._lock is not None:
            self._lock.release()
        self._folder.cleanup()
        if self.path.exists():
            with suppress(OSError):
                (self.path / LOCK).touch()  # so that ``clear`` of a later process knows it
            atexit.register(shutil.rmtree, self.path, ignore_errors=True)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()


def clear(parent: Path, *kinds: str) -> list[str]:
    """Remove folders in ``parent`` whose processes have ended; returns their names."""
    removed = []
    for path in sorted(each for kind in kinds for each in parent.glob(f"{kind}*")):
        if path.is_symlink() or not path.is_dir() or not _is_ours(path):
            continue
        lock = None
        with suppress(OutputError):  # of another user, or on a disk that cannot be written
            lock = take(path / LOCK)
        if lock is None:
            continue
        shutil.rmtree(path, ignore_errors=True)
        lock.release()
        with suppress(OSError):  # where an open file cannot be removed
            path.rmdir()
        if not path.exists():
            removed.append(path.name)
    return removed


def _is_ours(folder: Path) -> bool:
    """Whether it is as ``Scratch`` made it: with a lock, or killed before it had one."""
    with suppress(OSError):
        names = {path.name for path in folder.iterdir()}
        return LOCK in names or not names
    return False
