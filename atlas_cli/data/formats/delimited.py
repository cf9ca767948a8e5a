"""Tables in text: a header line, then rows of fields between commas or tabs.

Fields are quoted as in RFC 4180. Tab-separated files are often not quoted at all (GLUE): where every line has as many
fields as the header and quotes stand as no writer of quoted fields puts them, quotes are text, and a note says so.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from atlas_cli.data.formats.text import lines_of, read_text
from atlas_cli.data.rows import Rows
from atlas_cli.errors import ConfigError

Record = tuple[int, list[str]]  # first line, and fields

_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_SEPARATOR_LINE = re.compile(r"sep=(.)")  # Excel's own first line


def read_csv(path: Path, key: str, notes: list[str]) -> Rows:
    """Fields between commas, or what Excel's first line ``sep=;`` names."""
    return _read(path, key, notes, ",")


def read_tsv(path: Path, key: str, notes: list[str]) -> Rows:
    """Fields between tabs."""
    return _read(path, key, notes, "\t")


def _read(path: Path, key: str, notes: list[str], delimiter: str) -> Rows:
    csv.field_size_limit(2**31 - 1)  # the default refuses texts above 128 KiB
    text = read_text(path, key)
    lines = lines_of(text)
    skipped = 0
    if named := _SEPARATOR_LINE.fullmatch(lines[0]):
        delimiter, skipped, lines = named[1], 1, lines[1:]
        text = "\n".join(lines)
    numbered = enumerate(lines, start=skipped + 1) if '"' in text else ()
    bare = [(number, line.split(delimiter)) for number, line in numbered if line]
    if delimiter == "\t" and _quotes_are_text(bare):
        count = sum('"' in cell for _, cells in bare for cell in cells)
        notes.append(f"{path}: fields are not quoted, so quotes are read as text ({count} fields hold some)")
        records = bare
    else:
        records = list(_quoted(text, delimiter, skipped, path, key))
        notes += _swallowed(records, bare, path)
    return _table(records, delimiter, path, key)


def _quoted(text: str, delimiter: str, skipped: int, path: Path, key: str) -> Iterator[Record]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = skipped + 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = skipped + reader.line_num + 1
    except csv.Error as error:
        raise ConfigError(f"{path}:{line}: {error}; double the quotes inside quoted fields", key=key) from error


def _quotes_are_text(bare: list[Record]) -> bool:
    """Whether lines that are whole without quoting have quotes that no writer of quoted fields would have put so.

    Such writers quote fields that hold quotes, which they double, commas, tabs or line ends; or all of them, the header
    included. Fields with tabs or line ends would have made lines of other lengths.
    """
    if not bare or bare[0][1][0].startswith('"') or len(bare[0][1]) < 2:
        return False
    if any(len(cells) != len(bare[0][1]) for _, cells in bare):
        return False
    return any(cell.startswith('"') and not _written_quoted(cell) for _, cells in bare for cell in cells)


def _written_quoted(cell: str) -> bool:
    inner = cell[1:-1]
    whole = len(cell) > 1 and cell.endswith('"') and '"' not in inner.replace('""', "")
    return whole and ('""' in inner or "," in inner)


def _swallowed(records: list[Record], bare: list[Record], path: Path) -> Iterator[str]:
    """Quoted fields over several lines, each of which would be a row by itself: perhaps the quotes belong to the text.

    One note a file, of the first such field.
    """
    if not bare or len(bare) <= len(records):
        return
    width = len(records[0][1])
    widths = {line: len(cells) for line, cells in bare}
    starts = [line for line, _ in records] + [max(widths) + 1]
    spans = [(a, b) for a, b in pairwise(starts) if b - a > 1]
    spans = [(a, b) for a, b in spans if all(widths.get(line) == width for line in range(a, b))]
    if spans:
        first, after = spans[0]
        yield (
            f"{path}:{first}: a quoted field goes on to line {after - 1}, so {after - first} lines that could be rows "
            f"are one ({len(spans)} such fields); if a quote belongs to the text, double it and quote the field"
        )


def _table(records: list[Record], delimiter: str, path: Path, key: str) -> Rows:
    if not records:
        return []
    (top, header), records = records[0], records[1:]
    if len(header) == 1 and (others := [c for c in _NAMES if c != delimiter and c in header[0]]):
        remedy = "name it .tsv" if others[0] == "\t" else f"put a first line sep={others[0]} above it"
        raise ConfigError(
            f"{path}:{top}: the header is one column, {header[0]!r:.80}: are fields between {_NAMES[others[0]]}, not "
            f"{_NAMES.get(delimiter, repr(delimiter))}? Save it with commas as .csv, or {remedy}",
            key=key,
        )
    header, records = _without_empty_columns(header, records)
    if repeated := [name for name, count in Counter(header).items() if count > 1]:
        raise ConfigError(f"{path}:{top}: column {repeated[0]!r} occurs twice", key=key)
    named = len(header) > 1 and all(len(cells) == len(header) + 1 for _, cells in records)
    rows = []
    for line, cells in records:
        if [cells[0].removeprefix("\ufeff"), *cells[1:]] == header:
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
    if len(lengths) != 1 or any(cell.strip() for _, cells in records for cell in cells[width:]):
        return header, records
    return header[:width], [(line, cells[:width]) for line, cells in records]
