"""The cache of tokenized rows, so that data is tokenized only once.

``tokenized/<key>.safetensors`` holds all token numbers of a task group end to end, their lengths and the key, and
``<key>.json`` its hash and what it is of. The key hashes all that decides: rows, task with the source of all task
types, classes, ``max_length``, and the tokenizer. The cache is never required: rows whose entry is missing, damaged or
of another key are tokenized again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from atlas_cli import tasks
from atlas_cli.errors import ConfigError
from atlas_cli.models.files.tokenizer_file import tokenizer_parts
from atlas_cli.notes import say
from atlas_cli.storage.cached_folders import cache_dir, keep_newest, replace
from atlas_cli.tasks.contract import BaseTask, Feature, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FEWEST_ROWS = 500  # fewer are tokenized in less time than it takes to look them up on a slow disk
MOST_BYTES = 2**30
_AT_ONCE = 1000  # rows
_LISTS = ("input_ids", "token_type_ids", "labels")
Encoded = list[list[Feature]]


def encode(task: BaseTask, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """``task.encode`` of every row, from the cache or computed and stored there.

    Raises:
        ConfigError: as ``task.encode``.
    """
    key = _key(task, rows, tokenizer, max_length) if len(rows) >= FEWEST_ROWS else None
    found = _read(key) if key is not None else None
    if found is not None:
        return found
    parts = (rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE))
    encoded = [features for part in parts for features in _features_of_all(task, part, tokenizer, max_length)]
    if key is not None:
        with suppress(OSError):  # a full disk, or one that cannot be written: it costs time only
            _keep(key, encoded, {"task": type(task).__module__, "rows": len(rows), "max_length": max_length})
    return encoded


def _features_of_all(
    task: BaseTask, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Encoded:
    try:
        return task.encode_all(rows, tokenizer, max_length)
    except ConfigError:  # one by one, to say which row it is
        return [_features(task, row, tokenizer, max_length) for row in rows]


def _features(task: BaseTask, row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Feature]:
    try:
        return task.encode(row, tokenizer, max_length)
    except ConfigError as error:  # rows have been dealt out, so that their numbers would say nothing
        start = next((value for field in task.fields if (value := row.get(field))), "")
        raise ConfigError(f"{error.message} (a row that begins {str(start)[:60]!r})", key=error.key) from None


def _key(task: BaseTask, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int) -> str | None:
    """Hash of all that decides the features; None, not kept: a slow tokenizer, or rows that are not JSON."""
    if not getattr(tokenizer, "is_fast", False):
        return None
    settings = [
        sorted(tokenizer_parts(tokenizer).items()),
        type(task).__module__,
        task.classes,
        task.pooling,
        task.keep_end,
        max_length,
    ]
    hasher = hashlib.sha256(repr([*settings, tokenizers.__version__, transformers.__version__]).encode())
    hasher.update(_source_of_tasks())
    try:
        for start in range(0, len(rows), _AT_ONCE):
            hasher.update(json.dumps(rows[start : start + _AT_ONCE], sort_keys=True).encode() + b"\n")
    except (TypeError, ValueError):
        return None
    return hasher.hexdigest()


@cache
def _source_of_tasks() -> bytes:
    """Hash of the files of all task types: a change to one tokenizes anew, with no version to count up."""
    hasher = hashlib.sha256()
    for file in sorted(Path(tasks.__file__).parent.glob("*.py")):
        hasher.update(hashlib.sha256(file.read_bytes()).digest())
    return hasher.digest()


def _paths(key: str) -> tuple[Path, Path]:
    folder = cache_dir() / "tokenized"
    return folder / f"{key}.safetensors", folder / f"{key}.json"


def _read(key: str) -> Encoded | None:
    """What was kept under a key; None where nothing was, or where it is not what was written."""
    tensors, facts = _paths(key)
    try:
        wanted = json.loads(facts.read_text("utf-8"))["sha256"]
        content = tensors.read_bytes()
        if hashlib.sha256(content).hexdigest() != wanted:
            raise ValueError("damaged")
        found = load(content)
        if found["key"].numpy().tobytes() != key.encode():
            raise ValueError("of other rows or another tokenizer")
        return _unpacked(found)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        say(f"note: {tensors} cannot be used ({error}); tokenizing anew")
        return None


def _keep(key: str, encoded: Encoded, facts: dict[str, Any]) -> None:
    """Write features that come back exactly as they are, which those of a new task type may not; bound the folder."""
    texts = (value for of_row in encoded for feature in of_row for value in feature.get("meta", {}).values())
    if sum(len(text) for text in texts if isinstance(text, str)) > MOST_BYTES // 4:
        return  # each window would hold its whole context
    try:
        packed = _packed(encoded)
        if _unpacked(packed) != encoded:
            return
    except (TypeError, ValueError, RuntimeError):  # no JSON, or no 32-bit integers
        return
    content = save({**packed, "key": torch.frombuffer(bytearray(key.encode()), dtype=torch.uint8)})
    if len(content) > MOST_BYTES:
        return
    tensors, described = _paths(key)
    replace(tensors, content)
    replace(described, json.dumps({**facts, "sha256": hashlib.sha256(content).hexdigest()}).encode())
    for file in keep_newest(tensors.parent.glob("*.safetensors"), MOST_BYTES):
        file.with_suffix(".json").unlink(missing_ok=True)


def _packed(encoded: Encoded) -> dict[str, Tensor]:
    """Lists of integers end to end with their lengths (-1: not a list), and the rest as JSON."""
    features = [feature for of_row in encoded for feature in of_row]
    tensors = {"features_of_row": torch.tensor([len(of_row) for of_row in encoded], dtype=torch.int32)}
    rest = [dict(feature) for feature in features]
    for name in _LISTS:
        found = [each.pop(name) if isinstance(each.get(name), list) else None for each in rest]
        lengths = [-1 if values is None else len(values) for values in found]  # type: ignore[arg-type]
        flat = [value for values in found for value in values or ()]  # type: ignore[attr-defined]
        if any(isinstance(value, float) for value in flat):
            raise TypeError("labels that are numbers with decimals would come back as whole ones")
        tensors[name] = torch.tensor(flat, dtype=torch.int32)
        tensors[f"{name}.lengths"] = torch.tensor(lengths, dtype=torch.int32)
    tensors["rest"] = torch.frombuffer(bytearray(json.dumps(rest).encode()), dtype=torch.uint8)
    return tensors


def _unpacked(tensors: dict[str, Tensor]) -> Encoded:
    features: list[Any] = json.loads(tensors["rest"].numpy().tobytes())
    for name in _LISTS:
        if not len(values := _shared(tensors[name])) and not bool((tensors[f"{name}.lengths"] >= 0).any()):
            continue  # no feature has such a list
        start = 0
        for feature, length in zip(features, tensors[f"{name}.lengths"].tolist(), strict=True):
            if length >= 0:
                feature[name] = values[start : start + length]
                start += length
    each: Iterator[Feature] = iter(features)
    return [list(islice(each, count)) for count in tensors["features_of_row"].tolist()]


def _shared(values: Tensor) -> list[int]:
    """Numbers of which equal ones are one object: each takes 28 bytes, and texts have few tokens many times."""
    if not len(values):
        return []
    least, most = int(values.min()), int(values.max())
    if most - least >= len(values):
        found: list[int] = values.tolist()
        return found
    numbers = np.array(range(least, most + 1), dtype=object)
    shared: list[int] = numbers[values.numpy() - least].tolist()
    return shared
