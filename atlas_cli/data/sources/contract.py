"""The contract of a data source: one file in this folder, with a class ``Source``.

A source reads rows under its own column names. Columns are matched to the task's fields, and rows are split, sampled
and hashed, by code that all sources share. Names of its own begin with an underscore: any other name that
``BaseSource`` does not have is refused when the source is loaded.

``atlas_cli.testing.sources`` tests a source, in one line of a plug-in's own tests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from atlas_cli.data.rows import SourceRows

if TYPE_CHECKING:
    from atlas_cli.config.schema.task_groups import _DataFields as DataConfig

Key = Literal["test_files", "validation_files", "separator", "subset", "split", "test_split", "validation_split"]
KEYS: tuple[Key, ...] = get_args(Key)


class BaseSource(ABC):
    """A data source: ``data: {<name>: <location>}`` in YAML.

    Attributes:
        keys: the keys of ``KEYS`` that it reads besides its own; others are refused, so that none is ignored.
    """

    keys: ClassVar[tuple[Key, ...]] = ()

    @abstractmethod
    def load(self, data: DataConfig, key: str) -> SourceRows:
        """All rows, in an order that is the same each time.

        Args:
            data: the group's ``data`` section; ``data.location`` lists what the source's own key says.
            key: dotted path of that section, for errors.

        Raises:
            ConfigError: the section cannot be read as it is.
            ResourceError: the data is missing.
        """
