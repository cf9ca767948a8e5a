"""Text that every machine already has: the source files of Python's own standard library, read, never imported."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from atlas_cli.data.rows import Rows

CHUNK = 1_000
MAX_FILES = 400


def python_stdlib(folder: Path | None = None) -> tuple[Rows, Rows | None]:
    """Chunks of about 1,000 characters, cut at line ends, of the top-level modules, with ``document`` the file name.

    The text depends on the Python version; the run's manifest records its hash.
    """
    folder = folder or Path(sysconfig.get_paths()["stdlib"])
    rows = []
    for path in sorted(folder.glob("*.py"), key=lambda path: path.name)[:MAX_FILES]:
        text = path.read_text("utf-8", errors="replace")
        rows += [{"text": chunk, "document": path.name} for chunk in _chunks(text) if chunk.strip()]
    return rows, None


def _chunks(text: str) -> Iterator[str]:
    chunk = ""
    for line in text.splitlines(keepends=True):
        chunk += line
        if len(chunk) >= CHUNK:
            yield chunk
            chunk = ""
    yield chunk
