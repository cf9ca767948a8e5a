"""A folder of many files that is written aside and replaces an older one as a whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from atlas_cli.storage.moving import move
from atlas_cli.storage.writing import writing

SYNCING = 8  # threads: what several of them ask for at once, a file system puts on disk in one go

Counted = Callable[[str, int, int], None]  # what is done to files, how many are done, and how many there are


def _silent(what: str, done: int, of: int) -> None:
    """Nobody wants to know."""


@contextmanager
def folder_aside(path: Path, tell: Counted = _silent) -> Iterator[Path]:
    """Yield a folder beside ``path`` to make and fill. At the end of the block all files in it are synced, and only
    then it takes the place of ``path`` and of what was there.

    Where the block or that fails, what was written is removed, and ``path`` is as it was; what a killed process left is
    removed here, and by ``RunDirectory.remove_partial``.

    Args:
        tell: called after each file that is synced, and before each of the older ones that is removed.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    aside, before = (path.with_name(f".{path.name}{kind}.tmp") for kind in ("", ".before"))
    for left in (aside, before):
        shutil.rmtree(left, ignore_errors=True)
    try:
        yield aside
        with writing(path):
            _sync_all(_files(aside), tell)
            _replace(path, aside, before)
            _remove(before, tell)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


@contextmanager
def whole_folder(path: Path, tell: Counted = _silent) -> Iterator[Callable[[str, bytes], None]]:
    """As ``folder_aside``, with a function that writes a new file: its name there, folders inside are created as
    needed, and its content."""
    made: set[Path] = set()
    with folder_aside(path, tell) as aside:

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
    try:
        if path.exists():
            move(path, before)
        move(new, path)
    except BaseException:
        if before.exists() and not path.exists():
            move(before, path)
        raise


def _remove(folder: Path, tell: Counted) -> None:
    """What stays, where a file is in use or this is stopped, is removed the next time."""
    files = _files(folder)
    for done, file in enumerate(files):
        tell("removing older", done, len(files))
        with suppress(OSError):
            file.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


def _sync_all(files: Sequence[Path], tell: Counted) -> None:
    threads = ThreadPoolExecutor(SYNCING)
    try:
        for done, _ in enumerate(threads.map(_sync, files), 1):
            tell("syncing", done, len(files))
    finally:  # who stops it does not wait for the files that are not begun
        threads.shutdown(cancel_futures=True)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:  # Windows syncs only what may be written to
        os.fsync(file.fileno())
