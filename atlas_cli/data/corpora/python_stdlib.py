"""Text that every machine already has: the source files of Python's own standard library, read, never imported."""

from __future__ import annotations

import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

from atlas_cli.data.corpora.contract import BaseCorpus, Parts

CHUNK = 1_000
MAX_FILES = 400


class Corpus(BaseCorpus):
    """Chunks of about 1,000 characters, cut at line ends, of the top-level modules."""

    task = "causal-lm"
    licence = "PSF-2.0"
    split_by = "document"

    def rows(self, folder: Path) -> Parts:
        """Those of this Python, whose version they depend on; the run's manifest records their hash."""
        return chunks_of(Path(sysconfig.get_paths()["stdlib"])), None


def chunks_of(folder: Path) -> list[dict[str, str]]:
    """Rows of the modules in a folder; ``document`` is the file name."""
    rows = []
    for path in sorted(folder.glob("*.py"), key=lambda path: path.name)[:MAX_FILES]:
        with tokenize.open(path) as file:  # in the encoding that the file declares
            text = file.read()
        rows += [{"text": chunk, "document": path.name} for chunk in _chunks(text) if chunk.strip()]
    return rows


def _chunks(text: str) -> Iterator[str]:
    chunk = ""
    for line in text.splitlines(keepends=True):
        chunk += line
        if len(chunk) >= CHUNK:
            yield chunk
            chunk = ""
    yield chunk
