"""The text of a file and its lines, and plain text as rows."""

from __future__ import annotations

import codecs
from pathlib import Path

from atlas_cli.data.rows import Rows
from atlas_cli.errors import ConfigError

_UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_KINDS = {
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"BZh": "compressed by bzip2; unpack it first",
    b"\xfd7zXZ": "compressed by xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it first",
    b"PK\x03\x04": "a zip archive or an Excel workbook; unpack it, or save the sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as CSV UTF-8",
    b"PAR1": "a Parquet file; name it .parquet",
    b"ARROW1": "an Arrow file; write it as Parquet or JSON lines",
    b"SQLite format 3": "a SQLite database; export the table as CSV",
}


def binary_kind(data: bytes) -> str | None:
    """What bytes are that are no text, by how they begin, and what to do; None: perhaps text."""
    return next((kind for start, kind in _KINDS.items() if data.startswith(start)), None)


def read_text(path: Path, key: str) -> str:
    """The text of a file: UTF-8, or UTF-16 or UTF-32 where its byte order mark says so.

    Raises:
        ConfigError: other bytes, with file and line; or not text at all, and then what it is.
    """
    data = path.read_bytes()
    if (kind := binary_kind(data)) is not None:
        raise ConfigError(f"{path} is {kind}", key=key)
    encoding = "utf-32" if data.startswith(_UTF32) else "utf-16" if data.startswith(_UTF16) else "utf-8"
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} at offset {error.start} is not {encoding.upper()}; save it"
            " as UTF-8 (in Excel: CSV UTF-8; else e.g. iconv -f windows-1252 -t utf-8)",
            key=key,
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ConfigError(f"{path}:{line}: holds a NUL character, so it is no text in UTF-8; save it as UTF-8", key=key)
    return text


def lines_of(text: str) -> list[str]:
    r"""Lines without their ends, which are \n, \r\n, or \r where a file has nothing else."""
    return text.split("\r") if "\n" not in text else [line.removesuffix("\r") for line in text.split("\n")]


def read_lines(path: Path, key: str, notes: list[str]) -> Rows:
    """One row per line that is not blank, with the column text."""
    return [{"text": line.strip()} for line in lines_of(read_text(path, key)) if line.strip()]
