"""Small runs: models and texts of ``golden_inputs``, trained as ``atlas train`` does: stand-ins."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from golden_inputs import write_inputs

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.experiment.session import start
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal
from atlas_cli.runs.directory import RunDirectory

TINY = {"name": "tiny", "device": "cpu", "threads": 1, "server": {"rank": 2}}
TONE = {"task": "sequence-classification", "data": {"files": "data/tone.csv"}}


@contextmanager
def inputs() -> Iterator[Path]:
    """A folder with the models and texts, which is the current one meanwhile; the same for all claims."""
    before, folder = Path.cwd(), _folder()
    os.chdir(folder.name)
    try:
        if not Path("models").exists():
            write_inputs()
        yield Path(folder.name)
    finally:
        os.chdir(before)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """It is removed when the process ends."""
    return tempfile.TemporaryDirectory(ignore_cleanup_errors=True)


def run(
    clients: Mapping[str, Mapping[str, Any]], *, family: str = "gpt2", group: Any = TONE, **sections: Any
) -> RunDirectory:
    """Train one group of clients on a model of four blocks, cut in the middle; within ``inputs``."""
    config = {
        **TINY,
        "model": {"name": f"./models/{family}", "split_layer": 2},
        "task_groups": {"g": group},
        "clients": {name: {"task_group": "g", **client} for name, client in clients.items()},
        **sections,
    }
    return start(ExperimentConfig.model_validate(config), PlainProgress(Terminal(quiet=True)))


def counted(done: RunDirectory, kind: str, way: str, what: str = "messages") -> int:
    """The ledger's sum over all rounds after the set-up."""
    lines = done.read_lines("messages.jsonl")
    return sum(line[what] for line in lines if line["round"] and (line["kind"], line["direction"]) == (kind, way))
