"""Questions and remarks with answers, by topic (Gunther Cox and contributors), from the chatterbot-corpus package."""

from __future__ import annotations

from pathlib import Path

import yaml

from atlas_cli.data.corpora.contract import BaseCorpus, Parts
from atlas_cli.data.rows import Rows
from atlas_cli.packages import wheels


class Corpus(BaseCorpus):
    """The English conversations: their first statement as ``prompt``, the second as ``response``, and ``topic``."""

    task = "instruction"
    licence = "BSD package"
    train = 898
    package = wheels.CHATTERBOT
    split_by = "prompt"
    unique_by = ("prompt", "response")

    def rows(self, folder: Path) -> Parts:
        """The conversations of all topics; of alternative answers only the first is taken."""
        rows: Rows = []
        for file in sorted((folder / "english").glob("*.yml")):
            for prompt, response, *_ in yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"]:
                rows.append({"prompt": prompt.strip(), "response": response.strip(), "topic": file.stem})
        return rows, None
