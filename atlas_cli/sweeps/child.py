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
                process_group=0,  # Ctrl-C on a terminal reaches this process alone, which passes it on once
            )
        except OSError as error:
            raise OutputError(f"cannot start {sys.executable}: {error.strerror}") from None
        try:
            code, interrupted = process.wait(), False
        except KeyboardInterrupt:
            code, interrupted = _stop(process), True
    return ProcessEnd(None if code == 0 else _reason(code, log), interrupted)


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Let a run keep its last round; a further Ctrl-C stops it at once, and the one after that kills it."""
    # SIGINT is ignored by processes that a shell put into the background, SIGTERM is not
    for text in ("stopping after this step; once more stops at once", "stopping at once"):
        process.send_signal(signal.SIGTERM)
        with suppress(KeyboardInterrupt):
            print(text, file=sys.stderr, flush=True)
            return process.wait()
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
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"exit code {code}"])[-1].strip()
