"""Cache folders with a manifest of their source and file hashes, so that damaged content is never used.

A file is hashed only once while its size, times and place on the disk are unchanged: hashes of large files are
kept in the cache, too, under ``hashes/``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from atlas_cli.errors import ResourceError
from atlas_cli.hashing import sha256_file
from atlas_cli.storage.moving import move
from atlas_cli.storage.scratch_folders import CACHED, Scratch, clear

MANIFEST = ".atlas-manifest.json"
LARGE = 16 * 2**20  # smaller files are hashed in less time than it takes to look them up on a slow disk
_known: dict[str, tuple[list[int], str]] = {}


def cache_dir() -> Path:
    """The cache directory; it need not exist yet.

    Raises:
        ResourceError: no variable names it, and there is no home directory.
    """
    try:
        if own := os.environ.get("ATLAS_CACHE"):
            return Path(own).expanduser().absolute()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "atlas"
    except RuntimeError:  # neither HOME nor an entry of the user, as in a container
        advice = "set ATLAS_CACHE to a folder for packaged models and corpora"
        raise ResourceError(f"there is no home directory (HOME is not set); {advice}") from None


def known_sha256(path: Path) -> str:
    """SHA-256 of a file, which is read only if its hash is not known yet.

    Raises:
        ResourceError: it cannot be read.
    """
    name = os.path.abspath(path)
    if (mark := _mark(name)) is None:
        return sha256_file(path)  # which says why not
    if name in _known and _known[name][0] == mark:
        return _known[name][1]
    stamp = cache_dir() / "hashes" / f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}.json"
    found = _stamped(stamp, mark) if mark[0] >= LARGE else None
    if found is None:
        found = sha256_file(path)
        if mark[0] >= LARGE:
            with suppress(OSError):  # a cache that cannot be written: it costs time only
                replace(stamp, json.dumps({"path": name, "mark": mark, "sha256": found}, default=str).encode())
    _known[name] = mark, found
    return found


def describe(folder: Path, made_of: Mapping[str, Any]) -> None:
    """Write the manifest of a folder that is complete, before it is moved into place."""
    files = {name: {"sha256": sha256_file(path), "size": path.stat().st_size} for name, path in _files(folder).items()}
    text = json.dumps({**made_of, "files": files}, indent=1, sort_keys=True)
    (folder / MANIFEST).write_text(text, encoding="utf-8", newline="\n")


def damage(folder: Path, made_of: Mapping[str, Any]) -> str | None:
    """What is wrong with a folder that ``describe`` described; None if nothing is."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        listed = manifest.pop("files")
        if manifest != dict(made_of):
            return f"{MANIFEST} is of something else"
        present = _files(folder)
        if different := sorted(listed.keys() ^ present.keys()):
            return f"{different[0]} {'is missing' if different[0] in listed else 'does not belong there'}"
        for name, path in present.items():
            if path.stat().st_size != listed[name]["size"] or not _is(path, listed[name]["sha256"]):
                return f"{name} is not what was written (by hash)"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} is damaged"
    return None


def replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; all processes write equal content, so their order does not matter."""
    clear(path.parent, CACHED)
    with Scratch(path.parent, CACHED) as folder:
        (folder / path.name).write_bytes(content)
        move(folder / path.name, path)


def keep_newest(files: Iterable[Path], most: int) -> list[Path]:
    """Remove the oldest of some files of a cache, where they have more than ``most`` bytes together; those removed."""
    found = ((file.stat(), file) for file in files)
    held = sorted(((facts.st_mtime, facts.st_size, file) for facts, file in found), reverse=True)
    total, removed = 0, []
    for _, size, file in held:
        total += size
        if total > most:
            file.unlink(missing_ok=True)
            removed.append(file)
    return removed


def _is(path: Path, sha256: str) -> bool:
    # a damaged stamp is no damage to the file
    return known_sha256(path) == sha256 or sha256_file(path) == sha256


def _files(folder: Path) -> dict[str, Path]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    found.pop(MANIFEST, None)
    return found


def _mark(name: str) -> list[int] | None:
    """What changes when a file does: its size first."""
    try:
        facts = os.stat(name)
    except OSError:
        return None
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, facts.st_dev]


def _stamped(stamp: Path, mark: list[int]) -> str | None:
    try:
        kept = json.loads(stamp.read_text(encoding="utf-8"))
        return str(kept["sha256"]) if kept["mark"] == mark else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
