"""Checkpoints of a run: safetensors and JSON files, each checkpoint complete or absent.

A checkpoint is written to a temporary folder, every file synced, its manifest (sizes and sha256 of the others) last,
and moved into place by one rename: checkpoints/round-000003. The newest that is undamaged wins. state.safetensors and
state.json have the state of each part of the run, ``<part>/<name>``; records.json has the lengths and hashes of the
run's record files up to its round.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas_cli.errors import ResourceError
from atlas_cli.hashing import sha256_file
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.seals import Seals, seals_from, seals_record
from atlas_cli.storage.moving import move
from atlas_cli.storage.state_dict import TENSORS, VALUES
from atlas_cli.storage.strict_json import strict_json
from atlas_cli.storage.writing import writing

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 4
WRITTEN_BY = {3: "0.1.0"}  # the version of atlas that can go on from an earlier format
STATE, RECORDS, MANIFEST = VALUES, "records.json", "manifest.json"
_FILES = (TENSORS, STATE, RECORDS)
_MAX_MANIFEST, _MOST = 64 * 2**10, {STATE: 256 * 2**20, RECORDS: 64 * 2**10}


class _EarlierFormatError(ResourceError):
    """A checkpoint that an earlier version can go on from, and this one cannot."""

    def __init__(self, number: int) -> None:
        super().__init__(f"format {number}")
        self.format = number


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run resumes from: ``round`` rounds are done, and ``records`` are written.

    Attributes:
        tensors, state: the states of its parts, as ``experiment.run_state`` captures them.
    """

    round: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]
    records: Seals = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the checkpoint in messages."""
        return f"checkpoint round-{self.round:06d}"


def save_checkpoint(run: RunDirectory, checkpoint: Checkpoint, keep: int = 2) -> None:
    """Write a checkpoint, then remove all but the newest ``keep`` up to it.

    Raises:
        OutputError: no room or no permission; earlier checkpoints stay as they are.
    """
    name = f"checkpoints/round-{checkpoint.round:06d}"
    scratch = f"checkpoints/.round-{checkpoint.round:06d}.tmp"
    shutil.rmtree(run.path / scratch, ignore_errors=True)
    try:
        run.save_tensors(f"{scratch}/{TENSORS}", checkpoint.tensors)
        run.write_text(f"{scratch}/{STATE}", strict_json(checkpoint.state))  # a number a client: without indentation
        run.write_json(f"{scratch}/{RECORDS}", seals_record(checkpoint.records))
        run.write_json(
            f"{scratch}/{MANIFEST}",
            {
                "format": FORMAT,
                "round": checkpoint.round,
                "files": {file: _facts(run.path / scratch / file) for file in _FILES},
            },
        )
        with writing(run.path / name):
            _sync_folder(run.path / scratch)
            shutil.rmtree(run.path / name, ignore_errors=True)  # damaged, or of an interrupt after this very round
            move(run.path / scratch, run.path / name)
            _sync_folder(run.path / "checkpoints")
    except BaseException:
        shutil.rmtree(run.path / scratch, ignore_errors=True)
        raise
    for old in [folder for folder in folders(run) if round_of(folder) <= checkpoint.round][:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def load_newest(run: RunDirectory) -> tuple[Checkpoint, list[str]]:
    """The newest undamaged checkpoint, and the damage of newer ones in words.

    Raises:
        ResourceError: there is none, or the newest is of an earlier format.
    """
    warnings: list[str] = []
    for folder in reversed(folders(run)):
        try:
            return _load(folder), warnings
        except _EarlierFormatError as error:
            raise _of_earlier_format(run, error) from None
        except ResourceError as error:
            warnings.append(str(error))
    found = f" ({'; '.join(warnings)})" if warnings else ""
    raise ResourceError(f"{run.path} has no checkpoint to go on from{found}; start the experiment anew")


def load_round(run: RunDirectory, number: int) -> Checkpoint:
    """The checkpoint of a round.

    Raises:
        ResourceError: it is damaged, or of an earlier format.
    """
    try:
        return _load(run.path / f"checkpoints/round-{number:06d}")
    except _EarlierFormatError as error:
        raise _of_earlier_format(run, error) from None


def folders(run: RunDirectory) -> list[Path]:
    """Checkpoints that were written whole, oldest first; not checked for damage since."""
    found = (run.path / "checkpoints").glob("round-*")
    return sorted((f for f in found if f.name.removeprefix("round-").isdecimal() and f.is_dir()), key=round_of)


def remove_newer(run: RunDirectory, number: int) -> None:
    """Remove damaged checkpoints of rounds after ``number``, which are run again, so that the newest is undamaged."""
    for folder in folders(run):
        if round_of(folder) > number:
            shutil.rmtree(folder, ignore_errors=True)


def round_of(folder: Path) -> int:
    """The round of a checkpoint, from the name of its folder."""
    return int(folder.name.removeprefix("round-"))


def _of_earlier_format(run: RunDirectory, error: _EarlierFormatError) -> ResourceError:
    return ResourceError(
        f"{run.path} has checkpoints of format {error.format}, and this version reads format {FORMAT}; finish the run "
        f"with atlas {WRITTEN_BY[error.format]}, which wrote them, or start the experiment anew"
    )


def _load(folder: Path) -> Checkpoint:
    from safetensors import SafetensorError

    def damaged(why: str) -> ResourceError:
        return ResourceError(f"checkpoint {folder.name} is damaged: {why}")

    try:
        # sizes first, so that a file that is not what it says is not read at all
        if _size(folder / MANIFEST) > _MAX_MANIFEST:
            raise damaged(f"{MANIFEST} is too large")
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if type(manifest["format"]) is int and manifest["format"] in WRITTEN_BY:
            raise _EarlierFormatError(manifest["format"])
        if manifest["format"] != FORMAT:
            raise ResourceError(f"checkpoint {folder.name} has format {manifest['format']!r:.40}, expected {FORMAT}")
        if type(manifest["round"]) is not int or folder.name != f"round-{manifest['round']:06d}":
            raise damaged(f"{MANIFEST} is of another round")
        if set(manifest["files"]) != set(_FILES):
            raise damaged(f"{MANIFEST} names other files than {', '.join(_FILES)}")
        for file, facts in manifest["files"].items():
            if _size(folder / file) != facts["bytes"]:
                raise damaged(f"{file} has {_size(folder / file)} bytes, expected {facts['bytes']!r:.40}")
            if facts["bytes"] > _MOST.get(file, facts["bytes"]):
                raise damaged(f"{file} is too large")
            if sha256_file(folder / file) != facts["sha256"]:
                raise damaged(f"{file} is not what was written (by hash)")
        state, records = (json.loads((folder / file).read_text(encoding="utf-8")) for file in (STATE, RECORDS))
        return Checkpoint(manifest["round"], _tensors(folder / TENSORS), state, seals_from(records))
    except FileNotFoundError as error:
        raise damaged(f"{Path(error.filename).name} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise damaged(f"{type(error).__name__}: {error}") from None


def _tensors(file: Path) -> dict[str, Tensor]:
    """Copies of the tensors: Windows removes no file that is mapped, and an old checkpoint is removed."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118, it is no mapping


def _size(file: Path) -> int:
    facts = file.lstat()
    if not stat.S_ISREG(facts.st_mode):
        raise ValueError(f"{file.name} is not a plain file")
    return facts.st_size


def _facts(file: Path) -> dict[str, object]:
    return {"bytes": file.stat().st_size, "sha256": sha256_file(file)}


def _sync_folder(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folder, and syncs a rename by itself
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
