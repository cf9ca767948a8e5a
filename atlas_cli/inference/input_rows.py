"""Rows to predict on, read one by one: a file of any length takes the memory of a few rows.

CSV, TSV, JSONL and lines of text are streamed, from a file or from standard input; other formats are read whole.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

from atlas_cli.config.schema.task_groups import DataConfig
from atlas_cli.data.formats.fields import quotes_are_text
from atlas_cli.data.formats.json_rows import object_of
from atlas_cli.data.formats.text import binary_kind
from atlas_cli.data.sources import read_source
from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.printable import listed
from atlas_cli.suggest import did_you_mean

Form = Literal["csv", "tsv", "jsonl", "text"]
STDIN = "-"
SEPARATORS = (",", "\t", ";", "|")
_STREAMED: dict[str, Form] = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".txt": "text"}
_SAMPLE = 1000  # lines of a table between tabs that tell whether quotes are text in it


@dataclass(frozen=True)
class InputRow:
    """A row as it was given, and its ``place``: file and line, for messages."""

    place: str
    row: dict[str, Any]


@dataclass
class Input:
    """The rows of a file or of standard input.

    Args:
        source: a path, or ``-``.
        form: None: by the suffix; standard input has a text a line.
        wanted: columns by which the separator of a table is found.
        separator: of a table; None: it is found.

    Attributes:
        size: in bytes; None where it is not known. ``read``: how many of them were read so far.
        skipped: blank lines so far.
    """

    source: str
    form: Form | None = None
    wanted: Collection[str] = ()
    separator: str | None = None
    size: int | None = None
    read: int = 0
    skipped: int = 0
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.source != STDIN:
            path = Path(self.source).expanduser()
            if not path.is_file():
                what = "is a folder; name a file" if path.is_dir() else "there is no such file"
                raise ResourceError(f"--input: {self.source}: {what}")
            self.size = path.stat().st_size
        self.form = self.form or ("text" if self.source == STDIN else _STREAMED.get(Path(self.source).suffix.lower()))

    @property
    def name(self) -> str:
        """In messages."""
        return "standard input" if self.source == STDIN else self.source

    def __iter__(self) -> Iterator[InputRow]:
        """The rows in their order.

        Raises:
            ConfigError: what cannot be read, with file and line; or there is no row.
        """
        rows = self._whole() if self.form is None else self._streamed()
        first = next(rows, None)
        if first is None:
            raise ConfigError(f"{self.name} has no rows; add some, or give another file", key="--input")
        yield from chain([first], rows)

    def _whole(self) -> Iterator[InputRow]:
        found = read_source(DataConfig.model_validate({"files": self.source}), "--input")
        self.notes += found.notes
        for number, row in enumerate(found.train, start=1):
            yield InputRow(f"{self.source}, row {number}", row)

    def _streamed(self) -> Iterator[InputRow]:
        if self.source == STDIN:
            yield from self._rows(sys.stdin.buffer)
        else:
            with Path(self.source).expanduser().open("rb") as file:
                yield from self._rows(file)

    def _rows(self, file: BinaryIO) -> Iterator[InputRow]:
        lines = self._lines(file)
        if self.form in ("csv", "tsv"):
            yield from self._table(lines)
            return
        for number, line in lines:
            if not line.strip():
                self.skipped += 1
                continue
            place = f"{self.name}:{number}"
            yield InputRow(place, {"text": line.strip()} if self.form == "text" else object_of(line, place, None))

    def _lines(self, file: BinaryIO) -> Iterator[tuple[int, str]]:
        """Lines with their ends, each decoded by itself, so that an error has its number."""
        buffered = io.BufferedReader(file) if isinstance(file, io.RawIOBase) else file
        start = buffered.peek(4)[:4] if isinstance(buffered, io.BufferedReader) else b""
        if (kind := binary_kind(start)) is not None:
            raise ConfigError(f"{self.name} is {kind}", key="--input")
        raw: Iterable[bytes] = buffered
        if start.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16, of which lines are no lines of bytes
            raw = self._lines_of_utf16(buffered)
        for number, line in enumerate(raw, start=1):
            self.read += len(line)
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise ConfigError(
                    f"{self.name}:{number}: byte 0x{line[error.start]:02x} is not UTF-8; save it as UTF-8"
                ) from None
            if "\0" in text:
                raise ConfigError(f"{self.name}:{number}: holds a NUL character, so it is no text in UTF-8")
            yield number, text.removeprefix("\ufeff") if number == 1 else text

    def _lines_of_utf16(self, file: BinaryIO) -> Iterator[bytes]:
        text = io.TextIOWrapper(file, encoding="utf-16", newline="")
        try:
            for line in text:
                yield line.encode()
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self.name} begins as UTF-16 and is none: {error.reason}", key="--input") from None
        finally:
            text.detach()  # else it would close the file

    def _table(self, lines: Iterator[tuple[int, str]]) -> Iterator[InputRow]:
        csv.field_size_limit(2**31 - 1)
        top = next(((number, text) for number, text in lines if text.strip()), None)
        if top is None:
            return
        if top[1].startswith("sep=") and len(top[1].strip()) == 5:  # Excel's own first line
            self.separator = self.separator or top[1][4]
            top = next(lines, None)
            if top is None:
                return
        separator = self.separator or self._separator(top[1])
        first = list(islice(lines, _SAMPLE)) if separator == "\t" else []
        cells_of = [(number, text.rstrip("\r\n").split(separator)) for number, text in (top, *first) if text.strip()]
        unquoted = separator == "\t" and any('"' in text for _, text in first) and quotes_are_text(cells_of)
        if unquoted:
            self.notes.append(f"{self.name}: fields are not quoted, so quotes are read as text")
        records = self._records(chain([top], first, lines), separator, unquoted)
        _, header = next(records)
        if repeated := [name for name in header if header.count(name) > 1]:
            raise ConfigError(f"{self.name}:{top[0]}: column {repeated[0]!r} occurs twice")
        for number, cells in records:
            place = f"{self.name}:{number}"
            if len(cells) != len(header):
                raise ConfigError(
                    f"{place}: {len(cells)} fields, but the header has {len(header)}; quote fields that hold the "
                    "separator or line ends"
                )
            yield InputRow(place, dict(zip(header, cells, strict=True)))

    def _separator(self, header: str) -> str:
        """That which gives the header the columns that are wanted; where none does, the usual one of the format."""
        usual = "\t" if self.form == "tsv" else ","
        for separator in (usual, *SEPARATORS):
            if set(self.wanted) & set(next(csv.reader([header], delimiter=separator), [])):
                if separator != usual:
                    self.notes.append(f"{self.name}: separator {'tab' if separator == chr(9) else separator!r} found")
                return separator
        return usual

    def _records(
        self, lines: Iterable[tuple[int, str]], separator: str, unquoted: bool
    ) -> Iterator[tuple[int, list[str]]]:
        """Fields, each record with the number of its first line."""
        last = start = 0

        def text() -> Iterator[str]:
            nonlocal last
            for number, line in lines:  # of which the reader may take several for one record
                last = number
                yield line

        if unquoted:
            reader = csv.reader(text(), delimiter=separator, strict=True, quoting=csv.QUOTE_NONE)
        else:
            reader = csv.reader(text(), delimiter=separator, strict=True)
        try:
            for cells in reader:
                if cells:
                    yield start + 1 if start else last, cells
                else:
                    self.skipped += 1
                start = last
        except csv.Error as error:
            raise ConfigError(f"{self.name}:{start + 1}: {error}; double the quotes inside quoted fields") from None


def missing_column(field: str, column: str, present: Collection[str], name: str) -> ConfigError:
    """A column that is not there, with the nearest of those that are."""
    hint = did_you_mean(column, present)
    there = "" if "expected" in hint else f" (columns: {listed(present, most=10)})"
    return ConfigError(f"{name} has no column {column!r} for the {field}{hint}{there}", key="--input")
