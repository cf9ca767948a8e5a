"""The folder of one run: created once, never overwritten, every file whole or absent."""

from __future__ import annotations

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
from atlas_cli.printable import as_typed, printable
from atlas_cli.runs.kinds import each_client
from atlas_cli.runs.schemas import SCHEMAS
from atlas_cli.runs.seals import ADVICE as RESTORE
from atlas_cli.runs.seals import (
    CLIENTS,
    FILES,
    LABELS,
    MESSAGES,
    SELF_CHECKED,
    RunSeals,
    require_unchanged,
    seals_of,
    with_sum,
    without_sum,
)
from atlas_cli.storage.moving import move
from atlas_cli.storage.secrets import mask
from atlas_cli.storage.strict_json import strict_json
from atlas_cli.storage.writing import ADVICE, writing

if TYPE_CHECKING:
    from torch import Tensor


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

    def write_bytes(self, name: str, data: bytes, *, sync: bool = True) -> None:
        """Write a file in one step: readers see the old content or the new, never a part.

        ``sync=False`` is for what is soon written again: a power failure may leave neither.
        """
        path = self.path / name
        partial = path.with_name(f".{path.name}.partial")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with partial.open("wb") as file:
                    file.write(data)
                    file.flush()
                    if sync:
                        os.fsync(file.fileno())
                move(partial, path)
            except BaseException:
                with suppress(OSError):
                    partial.unlink()
                raise

    def write_text(self, name: str, text: str, *, sync: bool = True) -> None:
        """Write UTF-8 text in one step, as ``write_bytes`` does."""
        self.write_bytes(name, _encode(text), sync=sync)

    def write_json(self, name: str, obj: Any) -> bytes:
        """Write strict JSON in one step; floats that are not finite become null. Returns what was written.

        manifest.json and audit.json get their own hash, which ``read_json`` compares and leaves out.
        """
        content = _encode(strict_json(with_sum(obj) if name in SELF_CHECKED else obj, indent=2))
        self.write_bytes(name, content)
        return content

    def append(self, name: str, records: Iterable[Mapping[str, Any]]) -> bytes:
        """Append one JSON line per record, all or none, and sync; returns the bytes.

        A checkpoint that follows must not outlive them.
        """
        content = _encode("".join(strict_json(record) for record in records))
        self._append(name, content, sync=True)
        return content

    def remove_partial(self) -> None:
        """Remove partly written files of a killed process; nothing reads them."""
        for path in [*self.path.rglob(".*.partial"), *self.path.rglob(".*.tmp")]:
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def log(self, line: str) -> None:
        """Add a line to log.txt, after the local time with its offset from UTC; secrets are masked."""
        time = datetime.now().astimezone().isoformat(timespec="seconds")
        text = "".join(f"{time} {part}\n" for part in printable(mask(line)).splitlines())
        self._append("log.txt", _encode(text))

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
        """Write a safetensors file in one step; tensors of any device or stride, views of one buffer too."""
        from safetensors.torch import save

        own = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
        self.write_bytes(name, save(own, dict(metadata) if metadata else None))

    def read_json(self, name: str) -> Any:
        """Content of a JSON file, checked against its schema where it has one, and a record as ``read_lines`` does.

        Raises:
            ResourceError: missing or damaged.
        """
        path = self.path / name
        found = _parse(self._text(name, None, self._said(name, None)), name, str(path), RESTORE)
        return without_sum(found, path) if name in SELF_CHECKED else found

    def read_lines(self, name: str, size: int | None = None) -> list[dict[str, Any]]:
        """Records of a JSON lines file, checked against its schema and by hash against what the run says of it
        (``runs.seals``); [] when the run has not written it. ``size``: only of the first so many bytes, which the
        caller has checked.

        Of clients.jsonl and messages.jsonl there is a record for each client, also where a line is of many
        (``runs.kinds``), and counts of labels.jsonl are in those of clients in round 0.

        Raises:
            ResourceError: a damaged line, named by file and line.
        """
        found = self._lines(name, size)
        if name == CLIENTS:
            return list(each_client(found, self._lines(LABELS)))
        return list(each_client(found)) if name == MESSAGES else found

    def _lines(self, name: str, size: int | None = None) -> list[dict[str, Any]]:
        path = self.path / name
        if not path.exists():
            require_unchanged(self.path, name, b"", self._said(name, size))
            return []
        said = self._said(name, size)  # first, as a run that is being written says more later
        text = self._text(name, size, said)
        lines = text.removesuffix("\n").split("\n") if text else []  # not splitlines: a JSON string may hold U+2028
        kept, later = len(lines), RESTORE
        if said is not None and not said.ended:
            kept = text.encode()[: said.files[name].bytes if name in said.files else 0].count(b"\n")
            resume = f"atlas train --resume {as_typed(str(self.path))}"
            later = f"it is later than the last checkpoint, and if nobody writes there now, {resume} cuts it off"
        return [_parse(line, name, f"{path}:{i}", RESTORE if i <= kept else later) for i, line in enumerate(lines, 1)]

    def _text(self, name: str, size: int | None, said: RunSeals | None) -> str:
        content = _read(self.path / name)
        require_unchanged(self.path, name, content, said)
        try:
            return content[:size].decode()
        except UnicodeDecodeError as error:
            raise ResourceError(f"{self.path / name} is damaged: not UTF-8 at byte {error.start}; {RESTORE}") from error

    def _said(self, name: str, size: int | None) -> RunSeals | None:
        return seals_of(self.path) if name in FILES and size is None else None

    def _append(self, name: str, content: bytes, sync: bool = False) -> None:
        path = self.path / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            before = path.stat().st_size if path.exists() else 0
            try:
                with path.open("ab") as file:
                    file.write(content)
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
        OutputError: it names the home of an unknown user.
    """
    try:
        return Path(base).expanduser()
    except RuntimeError as error:
        raise OutputError(f"cannot write {base}: {error} {ADVICE}") from None


def require_folder(base: str | Path) -> None:
    """Check, before anything is loaded, that runs can have a folder at ``base``.

    Raises:
        OutputError: it, or a folder above it, is a file.
    """
    folder = folder_of_runs(base)
    there = next((path for path in (folder, *folder.parents) if os.path.exists(path)), None)
    if there is not None and not os.path.isdir(there):
        raise OutputError(f"cannot write {folder}: it, or a folder above it, is a file; {ADVICE}")


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


def make_new(folder: Path, stem: str) -> Path:
    """Make a folder ``stem``, or ``stem-2``, ``stem-3``, ... where that exists."""
    for i in count(1):
        path = folder / (stem if i == 1 else f"{stem}-{i}")
        with suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError("unreachable")


@contextmanager
def require_manifest(run: RunDirectory) -> Iterator[None]:
    """Inside the block a new folder gets its manifest; if the block ends without one, the folder is removed."""
    try:
        yield
    except BaseException:
        if not (run.path / "manifest.json").exists():
            shutil.rmtree(run.path, ignore_errors=True)
        raise


def _encode(text: str) -> bytes:
    # A file name that is not UTF-8 reaches us as lone surrogates; their escape is valid in JSON, too.
    return text.encode("utf-8", "backslashreplace")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ResourceError(f"{path.parent} has no {path.name}: the run ended before it was written") from error
    except OSError as error:
        raise ResourceError(f"cannot read {path}: {error.strerror}") from error


def _parse(text: str, name: str, where: str, advice: str) -> Any:
    schema = SCHEMAS.get(name)
    try:
        return schema.model_validate_json(text).model_dump(exclude_unset=True) if schema else json.loads(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key, said = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise ResourceError(f"{where} is damaged: {key + ': ' if key else ''}{said}; {advice}") from error
    except (ValueError, RecursionError) as error:
        raise ResourceError(f"{where} is damaged: {error}; {advice}") from error
