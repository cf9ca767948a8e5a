"""One writer a run directory: it holds the operating system's lock on a file in it, ``.lock``, for as long as it runs.

The system frees the lock when the process ends, however it ends, and knows processes of other containers and, on a
network file system that passes locks on, of other hosts. lock.json beside it says who holds it, for messages alone.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from atlas_cli.errors import OutputError
from atlas_cli.runs.directory import RunDirectory, writing
from atlas_cli.runs.secrets import mask_command

LOCK = ".lock"
OWNER = "lock.json"
_MAX_BYTES = 2**16
_MAX_CHARACTERS = 120
_PATIENCE = 1.0  # seconds: whoever looks whether a run has a writer holds its lock for a moment
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


def take(path: Path, seconds: float = 0.0) -> FileLock | None:
    """Take the lock of a file, which is made where there is none; None where another process keeps it.

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


@contextmanager
def locked(run: RunDirectory, note: Callable[[str], None]) -> Iterator[None]:
    """Be the only process that writes to a run directory.

    Args:
        note: told when the process that wrote there before did not end in order.

    Raises:
        OutputError: another process writes there, and which; or its file system has no locks.
    """
    lock = take(run.path / LOCK, _PATIENCE)
    if lock is None:
        raise OutputError(f"{run.path} is written by {_owner(run)}; wait until it ends, or stop it")
    try:
        if (run.path / OWNER).exists():
            line = f"took over from {_owner(run)}, which is gone"
            note(f"{run.path}: {line}")
            run.log(line)
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        me = {"pid": os.getpid(), "host": socket.gethostname(), "started": started, "command": mask_command(sys.argv)}
        run.write_json(OWNER, me)
        yield
    finally:
        with suppress(OSError):
            (run.path / OWNER).unlink(missing_ok=True)
        lock.release()


def writer_of(run: RunDirectory) -> str | None:
    """Which process writes to a run directory, in words; None where none does.

    Raises:
        OutputError: that cannot be asked.
    """
    if not (run.path / LOCK).exists():
        return None
    lock = take(run.path / LOCK)
    if lock is None:
        return _owner(run)
    lock.release()
    return None


def _owner(run: RunDirectory) -> str:
    """Who lock.json names; anybody may have written there, so it is shown and never acted on."""
    try:
        with (run.path / OWNER).open("rb") as file:
            facts = json.loads(file.read(_MAX_BYTES))
        pid, host, started = (_shown(facts[key]) for key in ("pid", "host", "started"))
        return f"process {pid} on host {host} since {started} ({_shown(' '.join(map(str, facts['command'])))})"
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return "another process"


def _shown(value: object) -> str:
    text = "".join(c if c.isprintable() else "?" for c in str(value)[: _MAX_CHARACTERS + 1])
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}..."
