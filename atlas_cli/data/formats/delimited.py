"""Tables in text: a header line, then rows of fields between separators.

The separator is the one that the config sets, else that of Excel's own first line ``sep=;``, else it is found: that of
commas, semicolons, tabs and bars which gives the header several columns and each row as many fields. Where two do, the
file is refused.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from itertools import repeat
from pathlib import Path

from atlas_cli.data.formats.fields import Record, TextTable
from atlas_cli.data.formats.text import lines_of, read_text
from atlas_cli.data.rows import Rows
from atlas_cli.errors import ConfigError

_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SEPARATOR_LINE = re.compile(r"sep=(.)")  # Excel's own first line


def read_csv(path: Path, key: str, notes: list[str], separator: str | None = None) -> Rows:
    """Fields between commas, where no other separator is set or found."""
    return _read(path, key, notes, separator, ",")


def read_tsv(path: Path, key: str, notes: list[str], separator: str | None = None) -> Rows:
    """Fields between tabs, where no other separator is set or found."""
    return _read(path, key, notes, separator, "\t")


def _read(path: Path, key: str, notes: list[str], separator: str | None, usual: str) -> Rows:
    csv.field_size_limit(2**31 - 1)  # the default refuses texts above 128 KiB
    text = read_text(path, key)
    lines = lines_of(text)
    skipped = 0
    if named := _SEPARATOR_LINE.fullmatch(lines[0]):
        separator, skipped, lines = separator or named[1], 1, lines[1:]
        text = "\n".join(lines)
    table = TextTable(path, key, text, lines, skipped)
    if separator is None:
        separator = _found(table, usual)
        if separator != usual:
            notes.append(f"{path}: separator {_shown(separator)} found, and not {_shown(usual)}")
    records, more = table.records(separator)
    notes += more
    return _table(records, separator, path, key)


def _found(table: TextTable, usual: str) -> str:
    """The separator that cuts a table into columns, where it is not said; the usual one of its suffix in doubt.

    Raises:
        ConfigError: several would do.
    """
    headers = {separator: _header(table, separator) for separator in _NAMES}
    among = [separator for separator in _NAMES if len(headers[separator]) > 1]
    if among in ([], [usual]):
        return usual
    fitting = [separator for separator in among if _is_even(table, separator)]
    if len(fitting) == 1:
        return fitting[0]
    if usual == "\t" and usual in fitting:  # .csv is said of any separator, .tsv of tabs alone
        return usual
    if not fitting and (usual in among or len(among) == 1):
        return usual if usual in among else among[0]  # reading it says which row is at fault
    if not fitting:
        shown = " and ".join(_shown(separator) for separator in among)
        raise ConfigError(
            f"{table.path}: the header may be cut at {shown}, and rows fit none of them; quote fields that hold"
            " separators, or set data.separator",
            key=table.key,
        )
    ways = " or ".join(f"{_shown(separator)} (columns {_listed(headers[separator])})" for separator in fitting)
    raise ConfigError(f"{table.path}: fields may be between {ways}; set data.separator to one of them", key=table.key)


def _header(table: TextTable, separator: str) -> list[str]:
    try:
        return next(table.quoted(separator), (0, []))[1]
    except ConfigError:  # with this separator, quotes stand where none may
        return []


def _is_even(table: TextTable, separator: str) -> bool:
    """Whether all rows have as many fields as the header."""
    try:
        records, _ = table.records(separator)
    except ConfigError:
        return False
    return len({len(cells) for _, cells in records}) == 1


def _listed(header: list[str]) -> str:
    return ", ".join(repr(name)[:40] for name in header[:4]) + (", ..." if len(header) > 4 else "")


def _shown(separator: str) -> str:
    return "tab" if separator == "\t" else f"'{separator}'"


def _table(records: list[Record], delimiter: str, path: Path, key: str) -> Rows:
    if not records:
        return []
    (top, header), records = records[0], records[1:]
    header, records = _without_empty_columns(header, records)
    if repeated := [name for name, count in Counter(header).items() if count > 1]:
        raise ConfigError(f"{path}:{top}: column {repeated[0]!r} occurs twice", key=key)
    each = [cells for _, cells in records]
    if set(map(len, each)) == {len(header)} and not any(cells[0].endswith(header[0]) for cells in each):
        return list(map(dict, map(zip, repeat(header), each)))  # as nearly all files are
    named = len(header) > 1 and all(len(cells) == len(header) + 1 for _, cells in records)
    rows = []
    for line, cells in records:
        if cells[0].endswith(header[0]) and [cells[0].removeprefix("\ufeff"), *cells[1:]] == header:
            raise ConfigError(
                f"{path}:{line}: the header line again, as in joined files; take it out, or list the files one by"
                " one; where the first line is a row, put a header on top",
                key=key,
            )
        if len(cells) != len(header):
            held = _NAMES.get(delimiter, repr(delimiter))
            hint = f"; quote fields that hold {held} or line ends"
            if named:
                hint = "; every row has one more, as R writes row names (row.names=FALSE leaves them out)"
            raise ConfigError(f"{path}:{line}: {len(cells)} fields, but the header has {len(header)}{hint}", key=key)
        rows.append(dict(zip(header, cells, strict=True)))
    return rows


def _without_empty_columns(header: list[str], records: list[Record]) -> tuple[list[str], list[Record]]:
    """Less the columns at the right that delimiters at the ends of lines make: nameless, and empty in every row."""
    width = len(header)
    while width > 1 and not header[width - 1].strip():
        width -= 1
    lengths = {len(cells) for _, cells in records}
    if lengths == {width} == {len(header)}:
        return header, records
    if len(lengths) != 1 or any(cell.strip() for _, cells in records for cell in cells[width:]):
        return header, records
    return header[:width], [(line, cells[:width]) for line, cells in records]
