"""``data: {files: reviews/*.csv}``: local files, relative to the current directory; the suffix says how each is read.

    .csv, .tsv       a header line, then rows; fields quoted as in RFC 4180
    .jsonl           one object a line
    .json            one list of objects
    .parquet         a table
    .txt             each line that is not blank is a row with the column text
    .conll, .iob     a token a line, its tag in the last column, a blank line between sentences; columns tokens and tags

All text is UTF-8, with or without a byte order mark.
"""

from __future__ import annotations

import csv
import glob
import io
import json
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas_cli.data.rows import Rows, SourceRows, digest, only_for
from atlas_cli.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from atlas_cli.config.task_groups import _DataFields as DataConfig

INSTALL = "pip install -c constraints.txt -e .[data]"


def load(data: DataConfig, key: str) -> SourceRows:
    """Rows of ``files``, and of ``test_files`` where they are given, in the order of the files.

    Args:
        data: the group's ``data`` section.
        key: dotted path of that section, for errors.

    Raises:
        ConfigError: a file that is not what its suffix says, with file and line; or keys of another source.
        ResourceError: a file that is not there.
    """
    only_for(data, "hub", ("subset", "split", "test_split"), key)
    train = _read_all(data.location, f"{key}.files")
    test = None
    if data.test_files is not None:
        test_files = [data.test_files] if isinstance(data.test_files, str) else data.test_files
        test = _read_all(test_files, f"{key}.test_files")
    return SourceRows(train, test, f"files {', '.join(data.location)}", digest(train, test))


def _read_all(patterns: list[str], key: str) -> Rows:
    rows: Rows = []
    for path in [path for pattern in patterns for path in _expand(pattern, key)]:
        reader = READERS.get(path.suffix.lower())
        if reader is None:
            raise ConfigError(f"{path} has a suffix that is not known; known are: {', '.join(READERS)}", key=key)
        if path.stat().st_size == 0:
            raise ConfigError(f"{path} is empty", key=key)
        found = reader(path, key)
        if not found:
            raise ConfigError(f"{path} has no rows", key=key)
        rows += found
    return rows


def _expand(pattern: str, key: str) -> list[Path]:
    try:
        return _matching(pattern, Path(pattern).expanduser(), key)
    except (OSError, RuntimeError) as error:  # a name that is too long, a home that nobody has, a folder that is closed
        reason = getattr(error, "strerror", None) or error
        raise ResourceError(f"{key}: {pattern:.200} cannot be looked up: {reason}") from None


def _matching(pattern: str, path: Path, key: str) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        raise ConfigError(f"{pattern} is a folder; name files, or a pattern such as {path / '*.csv'}", key=key)
    if glob.has_magic(pattern):
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
        if found:
            return found
        raise ResourceError(f"{key}: no file matches {pattern}")
    beside = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    near = get_close_matches(path.name, beside, n=1)
    hint = f"; did you mean {path.parent / near[0]}?" if near else f" (looked in {path.parent.absolute()})"
    raise ResourceError(f"{key}: no file {pattern}{hint}")


def _text(path: Path, key: str) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8; save it as UTF-8",
            key=key,
        ) from error


def _csv(path: Path, key: str, delimiter: str = ",") -> Rows:
    csv.field_size_limit(2**31 - 1)  # the default refuses texts above 128 KiB
    reader = csv.reader(io.StringIO(_text(path, key), newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    rows: Rows = []
    line = 1
    try:
        for cells in reader:
            if cells and not header:
                header = cells
                if repeated := sorted({name for name in header if header.count(name) > 1}):
                    raise ConfigError(f"{path}:{line}: column {repeated[0]!r} occurs twice", key=key)
            elif cells:
                if len(cells) != len(header):
                    raise ConfigError(
                        f"{path}:{line}: {len(cells)} fields, but the header has {len(header)}; quote fields that hold"
                        f" {'tabs' if delimiter != ',' else 'commas'} or line ends",
                        key=key,
                    )
                rows.append(dict(zip(header, cells, strict=True)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ConfigError(f"{path}:{line}: {error}; double the quotes inside quoted fields", key=key) from error
    return rows


def _tsv(path: Path, key: str) -> Rows:
    return _csv(path, key, delimiter="\t")


def _jsonl(path: Path, key: str) -> Rows:
    lines = enumerate(_text(path, key).split("\n"), start=1)
    return [_object(json_line, f"{path}:{number}", key) for number, json_line in lines if json_line.strip()]


def _object(text: str, place: str, key: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{place}: not JSON: {error}", key=key) from error
    if not isinstance(value, dict):
        raise ConfigError(f"{place}: a {type(value).__name__} where an object is expected", key=key)
    return value


def _json(path: Path, key: str) -> Rows:
    text = _text(path, key)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not JSON: {error.msg}", key=key) from error
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise ConfigError(f"{path}: expected one list of objects (one object a line goes into a .jsonl file)", key=key)
    return value


def _parquet(path: Path, key: str) -> Rows:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ResourceError(f"{path}: Parquet files need the pyarrow package: {INSTALL}") from error
    try:
        return pq.ParquetFile(path).read().to_pylist()
    except pa.ArrowException as error:
        raise ConfigError(f"{path}: not a Parquet file: {' '.join(str(error).split())[:200]}", key=key) from error


def _txt(path: Path, key: str) -> Rows:
    return [{"text": line.strip()} for line in _text(path, key).split("\n") if line.strip()]


def _conll(path: Path, key: str) -> Rows:
    rows: Rows = []
    tokens: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*_text(path, key).split("\n"), ""], start=1):
        columns = line.split()
        if columns and columns[0] != "-DOCSTART-":
            if len(columns) < 2:
                raise ConfigError(f"{path}:{number}: expected a token and a tag, found {columns[0]!r} alone", key=key)
            tokens.append(columns[0])
            tags.append(columns[-1])
        elif tokens:
            rows.append({"tokens": tokens, "tags": tags})
            tokens, tags = [], []
    return rows


READERS: dict[str, Callable[[Path, str], Rows]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".txt": _txt,
    ".conll": _conll,
    ".iob": _conll,
}
