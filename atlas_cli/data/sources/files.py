"""``data: {files: reviews/*.csv}``: local files; the suffix says how each is read.

    .csv, .tsv       a header line, then rows; fields quoted as in RFC 4180, or .tsv without any quoting; ``separator``
                     says what stands between fields where it cannot be found
    .jsonl           one object a line
    .json            one list of objects, or SQuAD's own layout
    .parquet         a table
    .txt             each line that is not blank is a row with the column text
    .conll, .iob     a token a line, its tag in the last column, a blank line between sentences; columns tokens and tags
    .conllu          CoNLL-U: columns tokens, upos, xpos, ...; ``tags: upos`` says which holds the tags

All text is UTF-8, or UTF-16 with a byte order mark.
"""

from __future__ import annotations

import glob
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from atlas_cli.data.formats import conll, delimited, json_rows, parquet, text
from atlas_cli.data.rows import Rows, SourceRows, digest_of_parts
from atlas_cli.data.sources.contract import BaseSource
from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.suggest import near_file

if TYPE_CHECKING:
    from atlas_cli.config.schema.task_groups import _DataFields as DataConfig

_UNREAD = {
    ".gz": "gunzip it first",
    ".bz2": "unpack it first",
    ".xz": "unpack it first",
    ".zst": "unpack it first",
    ".zip": "unpack it first",
    ".xlsx": "save the sheet as CSV UTF-8",
    ".xls": "save the sheet as CSV UTF-8",
    ".arrow": "write it as Parquet (datasets: to_parquet)",
    ".ndjson": "name it .jsonl",
}


class Source(BaseSource):
    """Local files."""

    keys = ("test_files", "validation_files", "separator")

    def load(self, data: DataConfig, key: str) -> SourceRows:
        """Rows of ``files``, and of ``test_files`` and ``validation_files`` where given, in the order of the files.

        Raises:
            ConfigError: a file is not of the format of its suffix; names file and line.
            ResourceError: a file is missing.
        """
        train, notes = _each_once(data.location, f"{key}.files")
        taken = {path.resolve(): "training" for path in train}
        own: dict[str, list[Path]] = {}
        for part in ("test", "validation"):
            if (named := getattr(data, f"{part}_files")) is not None:
                where = f"{key}.{part}_files"
                own[part], more = _each_once([named] if isinstance(named, str) else named, where)
                notes += more
                for path in own[part]:
                    if (other := taken.setdefault(path.resolve(), part)) != part:
                        narrow = "files" if other == "training" else f"{other}_files"
                        raise ConfigError(f"{path} is among the {other} files too; narrow data.{narrow}", key=where)
        if data.separator is not None and not any(path.suffix.lower() in _TABLES for path in taken):
            raise ConfigError(
                f"is for {' and '.join(_TABLES)} files, and there is none; remove it", key=f"{key}.separator"
            )
        separator = "\t" if data.separator == "tab" else data.separator
        rows = _read_all(train, f"{key}.files", notes, separator)
        found = {part: _read_all(paths, f"{key}.{part}_files", notes, separator) for part, paths in own.items()}
        test, validation = found.get("test"), found.get("validation")
        sha256, origin = digest_of_parts(rows, test, validation), f"files {', '.join(data.location)}"
        return SourceRows(rows, test, origin, sha256, notes=tuple(notes), validation=validation)


def _each_once(patterns: list[str], key: str) -> tuple[list[Path], list[str]]:
    """The files in the order in which they are first named, and a note where one is named again."""
    if not patterns:
        raise ConfigError("names no file", key=key)
    found: dict[Path, Path] = {}
    again: dict[Path, Path] = {}
    for path in [path for pattern in patterns for path in _expand(pattern, key)]:
        if path.resolve() in found:
            again[path.resolve()] = path
        else:
            found[path.resolve()] = path
    listed = ", ".join(str(path) for path in [*again.values()][:5]) + (", ..." if len(again) > 5 else "")
    notes = [f"{key.rpartition('.')[2]} name more than once, and read once: {listed}"] if again else []
    return list(found.values()), notes


def _read_all(paths: list[Path], key: str, notes: list[str], separator: str | None) -> Rows:
    rows: Rows = []
    for path in paths:
        suffix = path.suffix.lower()
        reader = partial(_TABLES[suffix], separator=separator) if suffix in _TABLES else _READERS.get(suffix)
        if reader is None:
            hint = f"; {todo}" if (todo := _UNREAD.get(suffix)) else ""
            raise ConfigError(
                f"{path} has a suffix that is not known; known are: {', '.join((*_TABLES, *_READERS))}{hint}", key=key
            )
        if path.stat().st_size == 0:
            raise ConfigError(f"{path} is empty; add rows, or give another file", key=key)
        found = reader(path, key, notes)
        if not found:
            raise ConfigError(f"{path} has no rows; add some, or give another file", key=key)
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
    near = near_file(path.name, beside)
    hint = f"; did you mean {path.parent / near}?" if near else f" (looked in {path.parent.absolute()})"
    raise ResourceError(f"{key}: no file {pattern}{hint}")


_TABLES = {".csv": delimited.read_csv, ".tsv": delimited.read_tsv}
_READERS: dict[str, Callable[[Path, str, list[str]], Rows]] = {
    ".jsonl": json_rows.read_jsonl,
    ".json": json_rows.read_json,
    ".parquet": parquet.read_parquet,
    ".txt": text.read_lines,
    ".conll": conll.read_conll,
    ".conllu": conll.read_conll,
    ".iob": conll.read_conll,
}
