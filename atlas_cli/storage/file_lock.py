"""The operating system's lock of a file, on Linux, macOS and Windows alike."""

from __future__ import annotations

import errno
from pathlib import Path

from filelock import FileLock, Timeout

from atlas_cli.errors import OutputError
from atlas_cli.storage.writing import writing

LOCK = ".lock"
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


def take(path: Path, seconds: float = 0.0) -> FileLock | None:
    """Take the lock of a file, which is created if it is missing; None if another process holds the lock.

    Args:
        seconds: how long to wait for it.

    Raises:
        OutputError: the file cannot be written, or its file system has no locks.
    """
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    with writing(path):
        try:
            lock.acquire(timeout=seconds)
        except Timeout:
            return None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            raise OutputError(
                f"{path.parent} is on a file system without locks ({error.strerror}), where two processes could write "
                "to one run directory; choose a folder on another one with output.dir"
            ) from None
    return lock
