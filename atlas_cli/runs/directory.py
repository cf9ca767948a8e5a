"""One run's folder: created once, never overwritten, every file whole or absent."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from atlas_cli.errors import OutputError, ResourceError
from atlas_cli.printable import printable
from atlas_cli.runs.records import SCHEMAS
from atlas_cli.runs.secrets import mask
from atlas_cli.runs.strict_json import strict_json

if TYPE_CHECKING:
    from torch import Tensor

ROUNDS = ("metrics.jsonl", "clients.jsonl", "clusters.jsonl", "messages.jsonl")
_ADVICE = "choose another folder with output.dir"


@dataclass(frozen=True)
class RunDirectory:
    """A run directory. Names are relative to ``path``; folders inside are made as needed.

    Every writing method raises OutputError when the disk is full or the folder cannot be written.
    """

    path: Path

    @classmethod
    def create(cls, base: str | Path, name: str, seed: int, now: datetime | None = None) -> RunDirectory:
        """Make ``<base>/<YYYYmmdd-HHMMSS>_<name>_<seed>/`` (``-2``, ``-3``, ... where that exists).

        Args:
            base: folder of runs; made when it is missing.
            now: local time of the start, for tests.

        Raises:
            OutputError: base is not a folder, cannot be written, or the disk is full. What was made is removed again.
        """
        folder = folder_of_runs(base)
        stem = f"{now or datetime.now():%Y%m%d-%H%M%S}_{name}_{seed}"
        made: list[Path] = []
        run = None
        try:
            with writing(folder):
                for parent in reversed([p for p in (folder, *folder.parents) if not p.exists()]):
                    parent.mkdir(exist_ok=True)
                    made.append(parent)
                run = cls(make_new(folder, stem))
                made.append(run.path)
            run.log("run directory created")  # shows now, not after an hour, that there is room to write
        except BaseException:
            if run is not None:
                with suppress(OSError):
                    (run.path / "log.txt").unlink(missing_ok=True)
            for path in reversed(made):
                with suppress(OSError):  # a base that someone else has begun to use stays
                    path.rmdir()
            raise
        return run

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file in one step: readers see the old content or the new, never a part."""
        path = self.path / name
        partial = path.with_name(f".{path.name}.partial")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with partial.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(partial, path)
            except BaseException:
                with suppress(OSError):
                    partial.unlink()
                raise

    def write_text(self, name: str, text: str) -> None:
        """Write UTF-8 text in one step."""
        self.write_bytes(name, _encode(text))

    def write_json(self, name: str, obj: Any) -> None:
        """Write strict JSON in one step; floats that are not finite become null."""
        self.write_text(name, strict_json(obj, indent=2))

    def append(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Add a JSON line a record and sync, as a checkpoint that follows must not outlive them: all, or none."""
        self._append(name, "".join(strict_json(record) for record in records), sync=True)

    def cut_to_round(self, number: int) -> None:
        """Drop records of later rounds, and what a kill or a power failure left of a line.

        Raises:
            ResourceError: records up to the round are missing or damaged; nothing was changed.
        """
        kept = {name: self._lines_to(name, number) for name in ROUNDS}
        for name, lines in kept.items():
            if not lines and not (self.path / name).exists():
                continue
            self.write_text(name, "".join(f"{line}\n" for line in lines))

    def _lines_to(self, name: str, number: int) -> list[str]:
        path = self.path / name
        lines = _read(path).split("\n")[:-1] if path.exists() else []  # what follows the last newline is a torn line
        kept, last, damage = [], -1, ""
        for i, line in enumerate(lines, 1):
            try:
                record = _parse(line, name, f"{path}:{i}")
            except ResourceError as error:
                damage = f" ({error})"
                break
            if record["round"] <= number:
                kept.append(line)
                last = record["round"]
        # not every round has messages or a clustering, but round 0 has messages
        complete = last >= number or (not damage and (name == "clusters.jsonl" or (name == "messages.jsonl" and kept)))
        if not complete:
            raise ResourceError(
                f"{path} ends with round {last}, and the checkpoint is of round {number}{damage}; restore the file or "
                "start the experiment anew"
            )
        return kept

    def remove_partial(self) -> None:
        """Remove what a killed process left half written; nothing reads it."""
        for path in [*self.path.rglob(".*.partial"), *self.path.glob("checkpoints/.round-*.tmp")]:
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def log(self, line: str) -> None:
        """Add a line to log.txt, after the local time with its offset from UTC; secrets are masked."""
        time = datetime.now().astimezone().isoformat(timespec="seconds")
        self._append("log.txt", "".join(f"{time} {part}\n" for part in printable(mask(line)).splitlines()))

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
        """Write a safetensors file in one step; tensors of any device or stride, views of one buffer too."""
        from safetensors.torch import save

        own = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
        self.write_bytes(name, save(own, dict(metadata) if metadata else None))

    def read_json(self, name: str) -> Any:
        """Content of a JSON file, checked against its schema where it has one.

        Raises:
            ResourceError: missing or damaged.
        """
        path = self.path / name
        return _parse(_read(path), name, str(path))

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """Records of a JSON lines file, checked against its schema; [] when the run has not written it.

        Raises:
            ResourceError: a damaged line, named by file and line.
        """
        path = self.path / name
        if not path.exists():
            return []
        lines = _read(path).removesuffix("\n").split("\n")  # not splitlines: a JSON string may hold U+2028
        return [_parse(line, name, f"{path}:{i}") for i, line in enumerate(lines, 1)]

    def _append(self, name: str, text: str, sync: bool = False) -> None:
        path = self.path / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            before = path.stat().st_size if path.exists() else 0
            try:
                with path.open("ab") as file:
                    file.write(_encode(text))
                    file.flush()
                    if sync:
                        os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    os.truncate(path, before)  # half a line would damage the lines before it for every reader
                raise


def folder_of_runs(base: str | Path) -> Path:
    """``output.dir`` with ``~`` replaced.

    Raises:
        OutputError: a home that nobody has.
    """
    try:
        return Path(base).expanduser()
    except RuntimeError as error:
        raise OutputError(f"cannot write {base}: {error} {_ADVICE}") from None


def open_run(path: str | Path) -> RunDirectory:
    """A run directory to read.

    Raises:
        ResourceError: not a folder, or not one that a run wrote.
    """
    folder = Path(os.path.expanduser(path))
    if not os.path.isdir(folder):  # of names that no file can have, too
        raise ResourceError(f"{path}: no such run directory; give a folder that atlas train wrote")
    if not (folder / "manifest.json").is_file():
        raise ResourceError(
            f"{path} is not a run directory: it has no manifest.json; give a folder that atlas train wrote"
        )
    return RunDirectory(folder)


def newest_run(base: str | Path = "runs") -> RunDirectory:
    """The run under ``base`` that started last.

    Raises:
        ResourceError: there is none.
    """
    manifests = list(Path(base).expanduser().glob("*/manifest.json"))
    if not manifests:
        raise ResourceError(f"no run in {base}/; start one with atlas train, or give the path of a run directory")
    stamp = len("20250131-235959")
    return open_run(max(manifests, key=lambda m: (m.parent.name[:stamp], m.stat().st_mtime_ns)).parent)


def make_new(folder: Path, stem: str) -> Path:
    """Make a folder ``stem``, or ``stem-2``, ``stem-3``, ... where that exists."""
    for i in count(1):
        path = folder / (stem if i == 1 else f"{stem}-{i}")
        with suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError("unreachable")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError into an OutputError that says why ``path`` cannot be written, and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = path if path.is_dir() else path.parent
            raise OutputError(f"no space left on {where}; free some and start again, or {_ADVICE}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise OutputError(f"cannot write {path}: {error.strerror}; make it writable, or {_ADVICE}") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise OutputError(f"cannot write {path}: it, or a folder above it, is a file; {_ADVICE}") from error
        raise OutputError(f"cannot write {path}: {error.strerror or error}; {_ADVICE}") from error


def _encode(text: str) -> bytes:
    # A file name that is not UTF-8 reaches us as lone surrogates; their escape is valid in JSON, too.
    return text.encode("utf-8", "backslashreplace")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ResourceError(f"{path.parent} has no {path.name}: the run ended before it was written") from error
    except UnicodeDecodeError as error:
        raise ResourceError(f"{path} is damaged: not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise ResourceError(f"cannot read {path}: {error.strerror}") from error


def _parse(text: str, name: str, where: str) -> Any:
    schema = SCHEMAS.get(name)
    try:
        return schema.model_validate_json(text).model_dump(exclude_unset=True) if schema else json.loads(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise ResourceError(f"{where} is damaged: {key + ': ' if key else ''}{first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise ResourceError(f"{where} is damaged: {error}") from error
