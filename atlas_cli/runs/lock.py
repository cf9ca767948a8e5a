"""One writer a run directory: lock.json names the process that writes, and is removed at its end.

A process is known by host, pid and start time, so that another one that got the pid later is not taken for the owner.
The lock of a process that is gone is taken over where that can be known: on the same host.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from atlas_cli.errors import OutputError
from atlas_cli.runs.directory import RunDirectory, writing

LOCK = "lock.json"
_MAX_BYTES = 4096


@dataclass(frozen=True)
class Owner:
    """A process; ``started`` is its start in the words of the operating system, None where that cannot be asked."""

    pid: int
    host: str
    started: str | None

    @property
    def here(self) -> bool:
        """Whether it is, or was, a process of this host."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether it still runs; on another host it may."""
        if not self.here:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # of another user
            pass
        now = _start_of(self.pid)
        return now != "" and (now is None or self.started is None or now == self.started)


@contextmanager
def locked(run: RunDirectory, note: Callable[[str], None]) -> Iterator[None]:
    """Be the only process that writes to a run directory.

    Args:
        note: told when the lock of a process that is gone is taken over.

    Raises:
        OutputError: another process writes there, or may; says which, and which file to remove if it is gone.
    """
    _acquire(run, Owner(os.getpid(), socket.gethostname(), _start_of(os.getpid())), note)
    try:
        yield
    finally:
        with suppress(OSError):
            (run.path / LOCK).unlink(missing_ok=True)


def owner_of(run: RunDirectory) -> Owner | None:
    """Who holds the lock; None where nobody does.

    Raises:
        OutputError: the file does not say.
    """
    path = run.path / LOCK
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("too long")
        owner = Owner(**json.loads(path.read_text(encoding="utf-8")))
        if type(owner.pid) is not int or not 0 < owner.pid < 2**31 or not isinstance(owner.host, str):
            raise ValueError("no process")
        return owner
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise OutputError(
            f"{path} cannot be read ({error}); remove it if no process writes to this run directory"
        ) from None


def _acquire(run: RunDirectory, me: Owner, note: Callable[[str], None]) -> None:
    path = run.path / LOCK
    with writing(path), _one_at_a_time(run.path):
        if _create(path, me):
            return
        owner = owner_of(run)
        if owner is not None and not owner.here:
            raise OutputError(
                f"{run.path} is written by process {owner.pid} on host {owner.host}; if that process is gone, "
                f"remove {path}"
            )
        if owner is not None and owner.alive:
            raise OutputError(
                f"{run.path} is written by process {owner.pid} on this host ({owner.host}); wait until it ends, or "
                "stop it"
            )
        path.unlink(missing_ok=True)
        if not _create(path, me):
            raise OutputError(f"{run.path} has just been taken by another process")
    if owner is not None:
        line = f"took over the lock of process {owner.pid}, which is gone"
        note(f"{run.path}: {line}")
        run.log(line)


def _create(path: Path, owner: Owner) -> bool:
    """Make the lock with its content at once; False where it exists."""
    content = (json.dumps(asdict(owner)) + "\n").encode()
    partial = path.with_name(f".{path.name}.{owner.pid}.partial")
    try:
        partial.write_bytes(content)
        try:
            os.link(partial, path)  # fails where it exists, as O_EXCL does, and is never seen half written
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            with path.open("xb") as file:
                file.write(content)
        return True
    except FileExistsError:
        return False
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Two processes of this host do not take over a lock at once, for the second would remove the first one's."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _start_of(pid: int) -> str | None:
    """When a process started, "" for one that has ended, None where that cannot be known."""
    if Path("/proc/self/stat").exists():
        try:
            # after the command's name, which is in brackets and may hold spaces and brackets: state is field 3
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            return "" if fields[0] in "ZX" else f"{boot} {fields[19]}"
        except (OSError, IndexError):
            return None
    try:
        done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
