"""Rows with their predictions as JSONL or CSV: a file that is whole or not there, or standard output as it goes."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from atlas_cli.errors import ConfigError, OutputError
from atlas_cli.storage.moving import move

Form = Literal["csv", "jsonl"]
STDOUT = "-"
Write = Callable[[Mapping[str, Any]], None]


def form_of(target: str, form: Form | None) -> Form:
    """The form that is asked for, else that of the suffix; JSONL on standard output.

    Raises:
        ConfigError: a suffix that says neither.
        OutputError: there is something of that name, or no folder for it.
    """
    path = Path(target)
    if target != STDOUT:
        require_new(path)
    if form is not None:
        return form
    suffix = path.suffix.lower()
    if target == STDOUT or suffix == ".jsonl":
        return "jsonl"
    if suffix == ".csv":
        return "csv"
    raise ConfigError(
        f"{target} has a suffix that says no format; name it .jsonl or .csv, or give --format", key="--output"
    )


def require_new(path: Path) -> None:
    """Before anything is computed: a file of that name is not overwritten, and a folder must be there.

    Raises:
        OutputError: there is something of that name, or no folder for it.
    """
    if path.exists():
        raise OutputError(f"--output: {path} exists and is not overwritten; choose another file, or remove it")
    if not path.parent.is_dir():
        raise OutputError(f"--output: cannot write {path}: there is no folder {path.parent}; make it first")


@contextmanager
def writing(target: str, form: Form) -> Iterator[Write]:
    """Inside the block, a function that writes a row; a file has its name only once the block has ended well."""
    if target == STDOUT:
        out = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", newline="\n", write_through=True)
        try:
            yield _writer(out, form)
        finally:
            with suppress(OSError):  # nobody reads any more: the write has said so
                out.detach()
        return
    with whole_file(Path(target)) as file:
        yield _writer(file, form)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[str]]:
    """Inside the block a file of text to write to, which has its name only once the block has ended well."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            yield file
        move(partial, path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise OutputError(f"--output: cannot write {path}: {error.strerror or error}") from error
        raise


def _writer(file: IO[str], form: Form) -> Write:
    if form == "jsonl":
        return lambda row: print(json.dumps(row, ensure_ascii=False, allow_nan=False), file=file)
    rows = csv.writer(file, lineterminator="\n")
    header: list[str] = []

    def write(row: Mapping[str, Any]) -> None:
        if not header:
            header.extend(row)
            rows.writerow(header)
        if others := [name for name in row if name not in header]:
            raise ConfigError(
                f"a row has a column {others[0]!r} that the first row has not; write JSONL", key="--output"
            )
        rows.writerow([_cell(row.get(name)) for name in header])

    return write


def _cell(value: Any) -> Any:
    """Text and numbers as they are; lists and objects as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict | bool) else value
