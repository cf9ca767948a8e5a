"""Checkpoints of a run: safetensors and JSON, complete or not there.

A checkpoint is written to a temporary folder, every file synced, its manifest (sizes and sha256 of the others) last,
and moved into place by one rename: checkpoints/round-000003. The newest that is undamaged wins; two are kept.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas_cli.errors import ResourceError
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.hashing import sha256_file

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
KEEP = 2
TENSORS, STATE, MANIFEST = "state.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run goes on from: ``round`` rounds are done."""

    round: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save_checkpoint(run: RunDirectory, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, then remove all but the newest two.

    Raises:
        OutputError: no room or no permission; earlier checkpoints stay as they are.
    """
    name = f"checkpoints/round-{checkpoint.round:06d}"
    scratch = f"checkpoints/.round-{checkpoint.round:06d}.tmp"
    shutil.rmtree(run.path / scratch, ignore_errors=True)
    try:
        run.save_tensors(f"{scratch}/{TENSORS}", dict(checkpoint.tensors))
        run.write_json(f"{scratch}/{STATE}", dict(checkpoint.state))
        run.write_json(
            f"{scratch}/{MANIFEST}",
            {
                "format": FORMAT,
                "round": checkpoint.round,
                "files": {file: _facts(run.path / scratch / file) for file in (TENSORS, STATE)},
            },
        )
        _sync_folder(run.path / scratch)
        shutil.rmtree(run.path / name, ignore_errors=True)
        os.rename(run.path / scratch, run.path / name)
        _sync_folder(run.path / "checkpoints")
    except BaseException:
        shutil.rmtree(run.path / scratch, ignore_errors=True)
        raise
    for old in _complete(run)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)


def load_newest(run: RunDirectory) -> tuple[Checkpoint, list[str]]:
    """The newest undamaged checkpoint, and in words what was wrong with newer ones.

    Raises:
        ResourceError: there is none.
    """
    warnings: list[str] = []
    for folder in reversed(_complete(run)):
        try:
            return _load(folder), warnings
        except ResourceError as error:
            warnings.append(str(error))
    found = f" ({'; '.join(warnings)})" if warnings else ""
    raise ResourceError(f"{run.path} has no checkpoint to go on from{found}; start the experiment anew")


def _load(folder: Path) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise ResourceError(f"checkpoint {folder.name} has format {manifest['format']}, expected {FORMAT}")
        for file, facts in manifest["files"].items():
            # sizes first, so that a file that is not what it says is not read at all
            if (folder / file).stat().st_size != facts["bytes"] or sha256_file(folder / file) != facts["sha256"]:
                raise ResourceError(f"checkpoint {folder.name}: {file} is damaged")
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        return Checkpoint(manifest["round"], load_file(folder / TENSORS), state)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ResourceError(f"checkpoint {folder.name} is damaged: {type(error).__name__}: {error}") from None


def _complete(run: RunDirectory) -> list[Path]:
    return sorted((run.path / "checkpoints").glob("round-[0-9]*"))


def _facts(file: Path) -> dict[str, object]:
    return {"bytes": file.stat().st_size, "sha256": sha256_file(file)}


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
