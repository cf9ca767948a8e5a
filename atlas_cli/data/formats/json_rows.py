"""JSON: an object a line, or one list of objects; and SQuAD's own file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atlas_cli.data.formats.text import lines_of, read_text
from atlas_cli.data.rows import Rows
from atlas_cli.errors import ConfigError

MAX_DEPTH = 100  # of lists and objects in each other: deeper ones could be read, and not be written again


def read_jsonl(path: Path, key: str, notes: list[str]) -> Rows:
    """One row per line that is not blank."""
    return list(_objects(path, key))


def _objects(path: Path, key: str) -> Iterator[dict[str, Any]]:
    text = read_text(path, key)
    for number, line in enumerate(lines_of(text), start=1):
        if not line.strip():
            continue
        yield object_of(line, f"{path}:{number}", key)


def object_of(line: str, place: str, key: str | None) -> dict[str, Any]:
    """The object of a line.

    Raises:
        ConfigError: there is none; names the ``place``.
    """
    if line.strip() in ("[", "{"):
        what = "one list of objects; name it .json" if line.strip() == "[" else "an object over several lines"
        raise ConfigError(f"{place}: {what}; a .jsonl file has one object a line", key=key)
    value = _loads(line, place, key)
    if not isinstance(value, dict):
        hint = "; one list of objects goes into a .json file" if isinstance(value, list) else ""
        raise ConfigError(f"{place}: a {type(value).__name__} where an object is expected{hint}", key=key)
    return value


def read_json(path: Path, key: str, notes: list[str]) -> Rows:
    """One row per object of the list, or per question of SQuAD's layout."""
    value = _loads(read_text(path, key), str(path), key)
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return value
    if (rows := _squad(value)) is not None:
        return rows
    raise ConfigError(f"{path}: expected one list of objects{_seen(value)}", key=key)


def _loads(text: str, place: str, key: str | None) -> Any:
    try:
        value = json.loads(text, object_pairs_hook=_once)
        if _deeper(value, MAX_DEPTH):
            raise RecursionError
        return value
    except json.JSONDecodeError as error:
        line = f"{place}:{error.lineno}" if place.endswith(".json") else place
        hint = "; one object a line goes into a .jsonl file" if error.msg == "Extra data" else ""
        raise ConfigError(f"{line}: not JSON: {error if line == place else error.msg}{hint}", key=key) from error
    except RecursionError:
        raise ConfigError(f"{place}: nested too deep to be a row", key=key) from None
    except ValueError as error:  # a name twice, or a number of more digits than Python reads
        raise ConfigError(f"{place}: {str(error).partition(';')[0]:.120}", key=key) from None


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects in each other are more than so many."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_deeper(v, levels - 1) for v in inner if isinstance(v, list | dict))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"an object names {name!r} twice")
    return found


def _squad(value: Any) -> Rows | None:
    """Rows of ``{"data": [{"paragraphs": [{"context", "qas": [...]}]}]}``, or None where a file is something else.

    Questions that are to be answered may come without answers.
    """
    try:
        return [
            {
                "id": asked.get("id"),
                "title": article.get("title"),
                "context": paragraph["context"],
                "question": asked["question"],
                **_answers(asked),
            }
            for article in value["data"]
            for paragraph in article["paragraphs"]
            for asked in paragraph["qas"]
        ]
    except (LookupError, TypeError, AttributeError):
        return None


def _answers(asked: dict[str, Any]) -> dict[str, Any]:
    if asked.get("is_impossible"):
        return {"answers": []}
    return {"answers": asked["answers"]} if "answers" in asked else {}


def _seen(value: Any) -> str:
    """What a file holds instead of a list of objects, and what to do."""
    if isinstance(value, list):
        return f", found a list with a {type(next(v for v in value if not isinstance(v, dict))).__name__} in it"
    if not isinstance(value, dict):
        return f", found {type(value).__name__}"
    if lists := [name for name, inner in value.items() if isinstance(inner, list) and inner]:
        rows = [name for name in lists if all(isinstance(row, dict) for row in value[name])]
        if rows:
            return f", found an object with one under {rows[0]!r:.60}; save that list alone"
        return ", found an object of lists; write rows (pandas: to_json(..., orient='records', lines=True) as .jsonl)"
    if value and all(isinstance(inner, dict) for inner in value.values()):
        return ", found an object of objects; write rows (pandas: to_json(..., orient='records', lines=True) as .jsonl)"
    return ", found one object (one object a line goes into a .jsonl file)"
