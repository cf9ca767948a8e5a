"""A folder of many files that is written aside and replaces an older one as a whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from atlas_cli.storage.moving import move
from atlas_cli.storage.writing import writing

SYNCING = 8  # threads: what several of them ask for at once, a file system puts on disk in one go


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """Yield a folder beside ``path`` to make and fill. At the end of the block all files in it are synced, and only
    then it takes the place of ``path`` and of what was there.

    Where the block or that fails, what was written is removed, and ``path`` is as it was; what a killed process left is
    removed here, and by ``RunDirectory.remove_partial``.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    aside, before = (path.with_name(f".{path.name}{kind}.tmp") for kind in ("", ".before"))
    for left in (aside, before):
        shutil.rmtree(left, ignore_errors=True)
    try:
        yield aside
        with writing(path):
            with ThreadPoolExecutor(SYNCING) as threads:
                for _ in threads.map(_sync, (file for file in aside.rglob("*") if file.is_file())):
                    pass
            _replace(path, aside, before)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Callable[[str, bytes], None]]:
    """As ``folder_aside``, with a function that writes a new file: its name there, folders inside are created as
    needed, and its content."""
    made: set[Path] = set()
    with folder_aside(path) as aside:

        def write(name: str, data: bytes) -> None:
            file = aside / name
            with writing(file):
                if file.parent not in made:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    made.add(file.parent)
                file.write_bytes(data)

        yield write


def _replace(path: Path, new: Path, before: Path) -> None:
    """Put a folder in the place of another, which stays whole where that fails: Windows moves no folder in use."""
    if path.exists():
        move(path, before)
    try:
        move(new, path)
    except BaseException:
        if before.exists():
            move(before, path)
        raise
    shutil.rmtree(before, ignore_errors=True)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:  # Windows syncs only what may be written to
        os.fsync(file.fileno())
