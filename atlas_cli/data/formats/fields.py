"""The fields of a table in text, cut at a separator.

Fields are quoted as in RFC 4180. Tab-separated files are often not quoted at all (GLUE): where every line has as many
fields as the header and quotes stand as no writer of quoted fields puts them, quotes are text, and a note says so.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from atlas_cli.errors import ConfigError

Record = tuple[int, list[str]]  # first line, and fields


@dataclass(frozen=True)
class TextTable:
    """The text of a table, which may be cut at any separator."""

    path: Path
    key: str
    text: str
    lines: list[str]
    skipped: int  # lines above the header

    def records(self, separator: str) -> tuple[list[Record], list[str]]:
        """The header and all rows, and notes on how quotes are read."""
        numbered = enumerate(self.lines, start=self.skipped + 1) if '"' in self.text else ()
        bare = [(number, line.split(separator)) for number, line in numbered if line]
        if separator == "\t" and quotes_are_text(bare):
            count = sum('"' in cell for _, cells in bare for cell in cells)
            return bare, [f"{self.path}: fields are not quoted, so quotes are read as text ({count} fields hold some)"]
        records = list(self.quoted(separator))
        return records, list(_swallowed(records, bare, self.path))

    def quoted(self, separator: str) -> Iterator[Record]:
        """The header and rows with fields quoted as in RFC 4180."""
        reader = csv.reader(io.StringIO(self.text, newline=""), delimiter=separator, strict=True)
        line = self.skipped + 1
        try:
            for cells in reader:
                if cells:
                    yield line, cells
                line = self.skipped + reader.line_num + 1
        except csv.Error as error:
            raise ConfigError(
                f"{self.path}:{line}: {error}; double the quotes inside quoted fields", key=self.key
            ) from error


def quotes_are_text(bare: list[Record]) -> bool:
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
