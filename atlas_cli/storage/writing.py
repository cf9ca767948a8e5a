"""Errors of the disk as sentences: what cannot be written, why, and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atlas_cli.errors import OutputError

ADVICE = "choose another folder with output.dir"


_LONGEST_ON_WINDOWS = 247  # of a folder; of a file 259


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError into an OutputError that says why ``path`` cannot be written, and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = path if path.is_dir() else path.parent
            raise OutputError(f"no space left on {where}; free some and start again, or {ADVICE}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise OutputError(f"cannot write {path}: {error.strerror}; make it writable, or {ADVICE}") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise OutputError(f"cannot write {path}: it, or a folder above it, is a file; {ADVICE}") from error
        if _is_too_long(path):
            raise OutputError(
                f"cannot write {path}: it has {len(os.path.abspath(path))} characters, and Windows takes "
                f"{_LONGEST_ON_WINDOWS} unless LongPathsEnabled is set in its registry; {ADVICE}"
            ) from error
        raise OutputError(f"cannot write {path}: {error.strerror or error}; {ADVICE}") from error


def _is_too_long(path: Path) -> bool:
    return os.name == "nt" and len(os.path.abspath(path)) > _LONGEST_ON_WINDOWS
