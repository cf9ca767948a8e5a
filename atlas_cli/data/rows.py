"""The rows (dictionaries) of data sources and task groups, with their origin and hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice, repeat
from json.encoder import encode_basestring
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

from atlas_cli.errors import ConfigError

if TYPE_CHECKING:
    from atlas_cli.config.schema.task_groups import _DataFields as DataConfig

Rows = list[dict[str, Any]]
_TEXTS = {str}
_AT_ONCE = 1000  # rows
_AS_JSON = json.JSONEncoder(sort_keys=True, default=str).encode


@dataclass(frozen=True)
class SourceRows:
    """The result of reading a data source.

    Attributes:
        train: rows in the order of the source, keyed by its own column names.
        test: the source's own test part, or None where a part must be held out.
        validation: the source's own validation part, or None where it has none.
        origin: one line for manifests and messages, e.g. ``corpus trec-questions``.
        sha256: of the rows of all parts, see ``digest_of_parts``.
        split_by: column whose equal values must stay on one side of a held-out split; None if there is none.
        notes: what a user should know about how the source was read, one sentence each.
    """

    train: Rows
    test: Rows | None
    origin: str
    sha256: str
    split_by: str | None = None
    notes: tuple[str, ...] = ()
    validation: Rows | None = None


@dataclass(frozen=True)
class ValidationAccount:
    """Counts of one task group's validation rows.

    Attributes:
        own: whether the source has a validation part of its own; else it was held out.
        read: rows of that part.
        repeats: of those, the rows that repeat a training or test row over the task's fields.
        duplicates: what was done with the repeats.
        used: rows that are used, after ``validation_limit``.
    """

    own: bool
    read: int
    repeats: int
    duplicates: Literal["drop", "keep"]
    used: int

    @property
    def held_out(self) -> int:
        """Rows that were taken from those to train on."""
        return 0 if self.own else self.read

    @property
    def available(self) -> int:
        """Rows before ``validation_limit`` took a sample."""
        return self.read - (self.repeats if self.duplicates == "drop" else 0)

    def clause(self) -> str:
        """``, 10 held out to validate on, 1 of these repeat training or test rows and are left out (...)``."""
        what = "validation rows of the source's own" if self.own else "held out to validate on"
        return f", {self.read:,} {what}{_repeats(self.repeats, 'training or test', self.duplicates)}"


@dataclass(frozen=True)
class Account:
    """Counts of one task group's rows, so that every row left out is counted.

    Attributes:
        read: training rows of the source, before a test part was held out.
        own_test: whether the source has a test part of its own.
        test_read: rows of that part, or of the part held out.
        repeats: of those, the rows that repeat a training row over the task's fields.
        duplicates: what was done with the repeats.
        train, test: rows that are used, after ``limit`` and ``test_limit``.
        validation: counts of the validation part; None where there is none.
    """

    read: int
    own_test: bool
    test_read: int
    repeats: int
    duplicates: Literal["drop", "keep"]
    train: int
    test: int
    validation: ValidationAccount | None = None

    @property
    def available(self) -> tuple[int, int]:
        """Training and test rows before ``limit`` and ``test_limit`` took a sample."""
        train = self.read if self.own_test else self.read - self.test_read
        train -= self.validation.held_out if self.validation is not None else 0
        return train, self.test_read - (self.repeats if self.duplicates == "drop" else 0)

    def sentence(self) -> str:
        """``100 rows, 20 held out to test on, 6 of these repeat training rows and are left out: 80 training rows, 14
        test rows``."""
        if self.own_test:
            first = f"{self.read:,} training rows, {self.test_read:,} test rows of the source's own"
        else:
            first = f"{self.read:,} rows, {self.test_read:,} held out to test on"
        first += _repeats(self.repeats, "training", self.duplicates)
        train, test = self.available
        limits, last = [("limit", self.train, train), ("test_limit", self.test, test)], ""
        if (validation := self.validation) is not None:
            first += validation.clause()
            limits.append(("validation_limit", validation.used, validation.available))
            last = f", {validation.used:,} to validate on"
        for name, used, of in limits:
            if used < of:
                first += f", {name} takes {used:,} of {of:,}"
        return f"{first}: {self.train:,} to train on, {self.test:,} to test on{last}"

    def record(self) -> dict[str, object]:
        """For the manifest."""
        return {name: value for name, value in asdict(self).items() if name != "validation" or value is not None}


def _repeats(count: int, of: str, duplicates: str) -> str:
    done = "are left out" if duplicates == "drop" else "are kept"
    return f", {count:,} of these repeat {of} rows and {done} (holdout.duplicates)" if count else ""


@dataclass(frozen=True)
class GroupData:
    """One task group's examples, ready for partition and tokenization.

    Attributes:
        name: of the task group.
        train, test, validation: rows that hold the task's fields under their own names, and every other column as it
            was; there may be no validation rows.
        classes: class names in the order of their ids; empty for tasks without classes.
        origin, sha256: of the source, before any split or sample.
        columns: the source's column of each task field.
        numbered: the numbers of the training rows in the source, and of the rows held out.
        account: the counts of all rows.
        notes: what was chosen, left out or looks wrong in the data, one sentence each; shown with its figures.
    """

    name: str
    train: Rows
    test: Rows
    classes: list[str]
    origin: str
    sha256: str
    columns: dict[str, str]
    numbered: RowNumbers
    account: Account
    notes: tuple[str, ...] = ()
    validation: Rows = field(default_factory=list)

    @property
    def held_out(self) -> dict[str, Rows]:
        """The rows of the test part, and of the validation part where there is one."""
        return {"test": self.test, **({"validation": self.validation} if self.validation else {})}


def digest(*parts: Sequence[Mapping[str, Any]] | None) -> str:
    """SHA-256 of rows: their values and their order count, the order of columns does not."""
    hasher, as_json = hashlib.sha256(), json.JSONEncoder(sort_keys=True, ensure_ascii=False, default=str).encode
    for part in parts:
        hasher.update(b"\x1e")
        rows = iter(part or ())
        while some := list(islice(rows, _AT_ONCE)):
            lines = _lines_of_texts(some) or "".join([f"{as_json(row)}\n" for row in some])
            hasher.update(lines.encode("utf-8", "surrogatepass"))
    return hasher.hexdigest()


def _lines_of_texts(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Rows of the same columns that hold texts alone as the encoder writes them, in a tenth of the time; None of
    others."""
    columns = set(map(tuple, rows))
    if len(columns) > 1 or set(map(type, names := next(iter(columns)))) != _TEXTS:
        return None
    parts: list[Iterable[str]] = []
    for name in sorted(names):
        values = list(map(itemgetter(name), rows))
        if set(map(type, values)) != _TEXTS:
            return None
        parts += [repeat(f"{', ' if parts else '{'}{encode_basestring(name)}: "), map(encode_basestring, values)]
    return "".join(chain.from_iterable(zip(*parts, repeat("}\n"), strict=False)))  # as long as there are values


def digest_of_parts(train: Rows, test: Rows | None, validation: Rows | None) -> str:
    """SHA-256 of a source's rows; one without a validation part has the ``digest`` of the other two."""
    return digest(train, test) if validation is None else digest(train, test, validation)


def identity(row: Mapping[str, Any], fields: Sequence[str]) -> str:
    """The key that rows share if they are exact repeats of each other over ``fields``."""
    return _AS_JSON([row.get(field) for field in fields])


def unique(rows: Iterable[dict[str, Any]], fields: Sequence[str], without: Iterable[Mapping[str, Any]] = ()) -> Rows:
    """The rows in order, less exact repeats over ``fields`` and less rows that occur in ``without``."""
    seen = {identity(row, fields) for row in without}
    kept = []
    for row in rows:
        if (mark := identity(row, fields)) not in seen:
            seen.add(mark)
            kept.append(row)
    return kept


def single_location(data: DataConfig, key: str) -> str:
    """The one name of a source that reads one corpus or data set.

    Raises:
        ConfigError: none or several were given.
    """
    if len(data.location) != 1 or not data.location[0].strip():
        raise ConfigError("give one name; make a task group of each", key=f"{key}.{data.source}")
    return data.location[0]


@dataclass(frozen=True)
class RowNumbers:
    """The numbers of training rows in their source, whose rows are counted from 0.

    Attributes:
        rows: the number of every training row.
        held_out: numbers of rows that were held out to test on; ``validation``: to validate on.
        read: how many rows the source has.
    """

    rows: Sequence[int]
    held_out: Collection[int]
    read: int
    validation: Collection[int] = ()
