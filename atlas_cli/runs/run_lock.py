"""One writer a run directory: it holds the operating system's lock on a file in it, ``.lock``, for as long as it runs.

The system frees the lock when the process ends, however it ends, and knows processes of other containers and, on a
network file system that passes locks on, of other hosts. lock.json beside it says who holds it, for messages alone.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

from atlas_cli.errors import OutputError
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.storage.file_lock import LOCK, take
from atlas_cli.storage.secrets import mask_command

OWNER = "lock.json"
_MAX_BYTES = 2**16
_MAX_CHARACTERS = 120
_PATIENCE = 1.0  # seconds: whoever looks whether a run has a writer holds its lock for a moment


@contextmanager
def locked(run: RunDirectory, note: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a run directory inside the block.

    Args:
        note: called if the process that wrote there before did not end in order.

    Raises:
        OutputError: another process writes there (the message names it), or the file system has no locks.
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
    """The process that writes to a run directory, in words; None if there is none.

    Raises:
        OutputError: the lock cannot be tested.
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
