"""Processes that find atlas imported: forks of one that has imported it and computed nothing.

Importing torch and transformers takes longer than what most tests look at in another process. What is forked is a
process like any other: it has a PID, a lock, limits and signals of its own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMPORTED = ["atlas_cli.experiment.session", "atlas_cli.reports.page.report", "transformers.models.bert.modeling_bert"]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
COMMAND = "import sys; from atlas_cli.cli import main; sys.exit(main(sys.argv[1:]))"


class Fork:
    """What a test needs of ``subprocess.Popen``, with both outputs kept as text."""

    def __init__(self, code: str, arguments: Sequence[str]):
        files = [tempfile.mkstemp(suffix=".txt") for _ in range(2)]
        for descriptor, _ in files:
            os.close(descriptor)
        self._files = [Path(name) for _, name in files]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        with _environment():  # of the process that is forked, which the first fork starts
            forkserver.ensure_running()
        self._process = context.Process(target=_run, args=(code, [*arguments], *map(str, self._files)))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """As of a process that has ended: negative, if by a signal."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end, and give what it wrote on stdout and stderr."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a fork", timeout or 0)
        out, err = (file.read_text(encoding="utf-8") for file in self._files)
        for file in self._files:
            file.unlink()
        return out, err


def start(arguments: Sequence[str], code: str = COMMAND) -> Fork | subprocess.Popen[str]:
    """Begin ``atlas ARGUMENTS``, or another program, in a process of its own; on Windows that is no fork."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        return Fork(code, arguments)
    command, environment = [sys.executable, "-c", code, *arguments], {**os.environ, **ENVIRONMENT}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _run(code: str, arguments: list[str], *files: str) -> None:
    for descriptor, name in enumerate(files, 1):
        opened = os.open(name, os.O_WRONLY)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
