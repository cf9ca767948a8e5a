"""The place of a model's files, and a strict reader of its JSON files, used before transformers reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from atlas_cli.errors import ResourceError
from atlas_cli.models.files import gguf_files

MOST_NESTED = 40  # brackets in brackets; published files have fewer than ten
_LONGEST = 300  # characters of another library's message


@dataclass(frozen=True)
class Source:
    """The place of weights or tokenizer files.

    Attributes:
        path: a folder or a hub id.
        kind: "folder", "gguf", "packaged" or "hub".
        gguf_file: file name within ``path`` for kind "gguf".
        options: further keyword arguments of ``from_pretrained``.
    """

    path: str
    kind: str
    gguf_file: str | None
    options: dict[str, Any]

    def folder(self) -> str:
        """The folder for ``from_pretrained``; a GGUF file is converted first, once.

        Raises:
            ResourceError: it cannot be converted.
        """
        return str(gguf_files.converted(Path(self.path) / self.gguf_file)) if self.gguf_file else self.path

    def converted(self) -> Source:
        """The source itself, or the folder to which a GGUF file was converted.

        Raises:
            ResourceError: it cannot be converted.
        """
        return Source(self.folder(), "folder", None, {}) if self.gguf_file else self

    def file(self, name: str) -> Path | None:
        """The path of a file of the model, fetched from the hub if necessary; None if there is no such file."""
        if self.kind != "hub":
            path = Path(self.path, name)
            return path if path.is_file() else None
        try:
            found = cached_file(self.path, name, _raise_exceptions_for_missing_entries=False, **self.options)
        except (OSError, ValueError):  # no such model, or no way to it: what loads the model says so
            return None
        return Path(found) if found is not None else None

    def json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file of the model; empty if there is no such file.

        Raises:
            ResourceError: not one JSON object.
        """
        file = self.file(name)
        return read_json(file) if file is not None else {}


def read_json(file: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        ResourceError: unreadable, no JSON, no object, a key twice, a number that is none, or nested too deep.
    """
    try:
        found = json.loads(file.read_bytes().decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse)
    except RecursionError:
        raise ResourceError(f"{file}: it is nested too deep") from None
    except (OSError, ValueError) as error:
        raise ResourceError(f"{file}: {reason(error)}") from None
    if not isinstance(found, dict):
        raise ResourceError(f"{file}: it holds a {type(found).__name__}, not an object")
    if _depth(found) > MOST_NESTED:
        raise ResourceError(f"{file}: it is nested more than {MOST_NESTED} deep")
    return found


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"the key {twice!r:.80} stands there twice")
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _depth(value: Any) -> int:
    deepest, todo = 0, [(value, 1)]
    while todo:
        one, level = todo.pop()
        if isinstance(one, (dict, list)):
            deepest = max(deepest, level)
            todo += [(inner, level + 1) for inner in (one.values() if isinstance(one, dict) else one)]
    return deepest


def reason(error: BaseException) -> str:
    """The first line of another library's error, cut to a bounded length, or its type if the message is empty."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
