"""``atlas train`` in a process of its own: it gives its memory back, and its crash or kill is its failure alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from atlas_cli.errors import OutputError
from atlas_cli.storage.writing import writing

_TAIL = 64 * 2**10
_TURN = 0.2  # seconds: Windows delivers Ctrl-C between two waits, and never in one
# Each in a process group of its own: Ctrl-C on a terminal reaches this process alone, which passes it on once.
# SIGINT is ignored by processes that a shell put into the background, SIGTERM is not; on Windows SIGTERM would end the
# process without its last round.
if sys.platform == "win32":
    _APART: int = subprocess.CREATE_NEW_PROCESS_GROUP
    _STOP: int = signal.CTRL_BREAK_EVENT
else:
    _APART = 0
    _STOP = signal.SIGTERM
_ENDED_BY_WINDOWS = 0xC0000000  # the least exit code of a process that crashed


class ProcessEnd(NamedTuple):
    """How a process ended: the reason of a failure in one line, and whether this process interrupted it."""

    reason: str | None
    interrupted: bool


def train(arguments: list[str], log: Path) -> ProcessEnd:
    """Run ``atlas train`` and wait for its end; KeyboardInterrupt meanwhile stops it, and is not raised again.

    Args:
        log: file for what it prints.

    Raises:
        OutputError: the log cannot be written, or no process can be started.
    """
    # the modules that this process imports, and not those that happen to lie in the current folder
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    command = [sys.executable, "-P", "-m", "atlas_cli", "train", *arguments]
    with writing(log):
        file = log.open("wb")
    with file:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**environment, "PYTHONUNBUFFERED": "1"},
                creationflags=_APART,
                process_group=0,
            )
        except OSError as error:
            raise OutputError(f"cannot start {sys.executable}: {error.strerror}") from None
        try:
            code, interrupted = _wait(process), False
        except KeyboardInterrupt:
            code, interrupted = _stop(process), True
    return ProcessEnd(None if code == 0 else _reason(code, log), interrupted)


def _wait(process: subprocess.Popen[bytes]) -> int:
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_TURN)


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Let a run keep its last round; a further Ctrl-C stops it at once, and the one after that kills it."""
    for text in ("stopping after this step; once more stops at once", "stopping at once"):
        with suppress(KeyboardInterrupt):
            process.send_signal(_STOP)
            print(text, file=sys.stderr, flush=True)
            return _wait(process)
    process.kill()
    return process.wait()


def _reason(code: int, log: Path) -> str:
    """The last error that a process printed, or what ended it, or the last thing it said."""
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - _TAIL, 0))
        lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    if code < 0:
        name = next((each.name for each in signal.Signals if each == -code), f"signal {-code}")
        return f"killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
    if code >= _ENDED_BY_WINDOWS:
        return f"ended by Windows with status {code:#x}"
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"exit code {code}"])[-1].strip()
