"""The parts of one task group's source: rows to test and to validate on, and those left to train on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Literal, cast

from atlas_cli.config.schema.partition import HoldoutConfig
from atlas_cli.data import class_names as labels
from atlas_cli.data.class_sets import SEPARATOR
from atlas_cli.data.hold_out import hold_out
from atlas_cli.data.rows import Rows, SourceRows, identity
from atlas_cli.data.task_fields import canonical
from atlas_cli.errors import ConfigError
from atlas_cli.suggest import did_you_mean

if TYPE_CHECKING:
    from atlas_cli.config.schema.experiment import TaskGroupConfig
    from atlas_cli.config.schema.task_groups import _DataFields as DataConfig
    from atlas_cli.tasks.contract import BaseTask


@dataclass(frozen=True)
class Part:
    """A test or validation part.

    Attributes:
        rows: what is kept of it.
        own: whether it is the source's own; else ``held_out`` has the numbers of its rows.
        read: how many rows it had.
        repeats: of those, the rows that repeat others; ``duplicates``: what was done with them.
    """

    rows: Rows
    own: bool
    held_out: list[int]
    read: int
    repeats: int
    duplicates: Literal["drop", "keep"]


@dataclass
class SourceParts:
    """The rows of a source under the task's field names, from which one part after the other is taken.

    Attributes:
        rows: the training rows of the source, before a part is held out.
        left: the numbers of those that no part has; ``taken``: the rows of parts so far.
    """

    name: str
    group: TaskGroupConfig
    task: type[BaseTask]
    source: SourceRows
    columns: dict[str, str]
    seed: int
    config: HoldoutConfig
    rows: Rows = field(init=False)
    left: list[int] = field(init=False)
    taken: Rows = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = self._read(self.source.train, "training data")
        self.left = list(range(len(self.rows)))

    @property
    def train(self) -> Rows:
        """The rows that no part has."""
        return [self.rows[i] for i in self.left]

    def take(self, part: Literal["test", "validation"], size: float | None) -> Part | None:
        """The source's own part; else one of so many rows, or of this share of all, is held out; None without a size.

        Raises:
            ConfigError: it cannot be had, or has nothing but rows that repeat others.
        """
        own: Rows | None = getattr(self.source, part)
        held_out: list[int] = []
        if own is not None:
            _require_alike(self.task, self.columns, own, f"{part} data", f"task_groups.{self.name}.data")
            rows = self._read(own, f"{part} data")
        elif size is None:
            return None
        else:
            data, source = cast("DataConfig", self.group.data), self.source
            held_out = hold_out(part, self.rows, self.left, size, self.task, data, source, self.seed, self.name)
            out = frozenset(held_out)
            self.left = [i for i in self.left if i not in out]
            rows = [self.rows[i] for i in held_out]
        found = self._without_repeats(part, rows, own is not None, held_out)
        self.taken = [*self.taken, *found.rows]
        return found

    def _read(self, rows: Rows, part: str) -> Rows:
        key, classes = f"task_groups.{self.name}", self.group.classes
        separator = cast("DataConfig", self.group.data).label_separator or SEPARATOR
        rows = canonical(rows, self.columns, self.task, part, f"{key}.data", separator)
        if classes is not None:
            _check_labels(rows, self.task, classes, part, f"{key}.classes")
        elif self.task.has_classes:
            labels.require_names(rows, self.task.labels_in, part, f"{key}.data")
        return rows

    def _without_repeats(self, part: str, rows: Rows, own: bool, held_out: list[int]) -> Part:
        """A user's own part is changed only when asked for."""
        known = {self._identity(row) for row in self._that_may_repeat(rows)}
        repeats = frozenset(i for i, row in enumerate(rows) if self._identity(row) in known) if known else frozenset()
        what = "a training or test row" if self.taken else "a training row"
        asked = self.config.duplicates
        if asked == "error" and repeats:
            raise ConfigError(
                f"{len(repeats)} of {len(rows)} {part} rows of task group {self.name} repeat {what}, the first is"
                f" {part} row {min(repeats) + 1}; make the parts differ, or use drop or keep",
                key="holdout.duplicates",
            )
        rule = asked if asked in ("drop", "keep") else "keep" if own else "drop"
        kept = [row for i, row in enumerate(rows) if rule == "keep" or i not in repeats]
        if not kept:
            raise ConfigError(
                f"no {part} rows are left: each of the {len(rows)} repeats {what}; give other {part} rows, or set"
                " holdout.duplicates: keep",
                key=f"task_groups.{self.name}.data",
            )
        return Part(kept, own, held_out, len(rows), len(repeats), rule)

    def _that_may_repeat(self, rows: Rows) -> Iterator[Mapping[str, object]]:
        """The rows of other parts, less those whose first field is a text that none of these rows has."""
        field = next(iter(self.columns), "")
        texts = {row.get(field) for row in rows} if all(isinstance(row.get(field), str) for row in rows) else None
        for row in chain((self.rows[i] for i in self.left), self.taken):
            if texts is None or not isinstance(value := row.get(field), str) or value in texts:
                yield row

    def _identity(self, row: Mapping[str, object]) -> str:
        return identity(row, list(self.columns))


def _require_alike(task: type[BaseTask], columns: Mapping[str, str], rows: Rows, part: str, key: str) -> None:
    """Check that a part of the source's own has the optional columns that the training data has, and no others."""
    for name in task.optional_fields:
        column = columns.get(name, name)
        if (there := any(column in row for row in rows)) == (name in columns):
            continue
        has, lacks = (part, "training data") if there else ("training data", part)
        raise ConfigError(
            f"the {has} has a column {column!r} and the {lacks} has none; a model would be tested on what it was not"
            " trained on",
            key=f"{key}.{name}",
        )


def _check_labels(rows: Rows, task: type[BaseTask], classes: list[str], part: str, key: str) -> None:
    known = frozenset(classes)
    for number, row in enumerate(rows, start=1):
        for label in task.labels_in(row):
            if label not in known:
                hint = did_you_mean(label, classes)
                raise ConfigError(
                    f"row {number} of the {part} has the label {label!r}{hint}; add it or fix it", key=key
                )
