"""Sweeps whose runs are trained in this process: ``tests/cli/test_sweep_processes.py`` starts processes."""

import io
from contextlib import redirect_stderr, redirect_stdout

from atlas_cli.cli import main
from atlas_cli.sweeps.child import ProcessEnd


def train_here(arguments, log):
    """In place of ``atlas_cli.sweeps.child.train``; its error is what it said."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
        code = main(["train", *arguments])
    return ProcessEnd(said.getvalue().strip().removeprefix("error: ") if code else None, False)
