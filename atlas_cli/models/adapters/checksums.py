"""SHA256SUMS beside exported files, in the format of ``sha256sum --check SHA256SUMS``, to detect later damage."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

from atlas_cli.errors import ResourceError

SUMS = "SHA256SUMS"


def checksums(files: Mapping[str, bytes]) -> bytes:
    """The content of SHA256SUMS for files, by name."""
    return "".join(_line(hashlib.sha256(files[name]).hexdigest(), name) for name in sorted(files)).encode()


def check_folder(folder: Path, names: Collection[str]) -> None:
    """Check the files of ``names`` in a folder against its SHA256SUMS; a folder without one is not checked.

    Raises:
        ResourceError: names the file that differs.
    """
    try:
        if not (folder / SUMS).is_file():
            return
        found = (folder / SUMS).read_bytes()
        expected = {name: "" for name in sorted(names) if (folder / name).is_file()}
        for name in expected:
            with (folder / name).open("rb") as file:
                expected[name] = _line(hashlib.file_digest(file, "sha256").hexdigest(), name)
    except OSError as error:
        raise ResourceError(f"{folder} cannot be read: {error.strerror}") from None
    lines = sorted(found.decode("latin-1").splitlines(keepends=True))
    if lines != sorted(expected.values()):
        wrong = next((name for name, line in expected.items() if line not in lines), SUMS)
        raise ResourceError(
            f"{folder}: {wrong} is not what {SUMS} says: damaged, or changed; remove {SUMS} to use it as it is"
        )


def _line(digest: str, name: str) -> str:
    return f"{digest}  {name}\n"
