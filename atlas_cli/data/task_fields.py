"""A task's fields in rows, under their own names and in one form each; what does not fit is named by row and column."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from atlas_cli.data.class_sets import SEPARATOR
from atlas_cli.data.rows import Rows
from atlas_cli.errors import ConfigError
from atlas_cli.suggest import did_you_mean

if TYPE_CHECKING:
    from atlas_cli.tasks.contract import BaseTask, Form

_LIST_AS_TEXT = re.compile(r"""\[\s*['"\d-].*\S\]""", re.DOTALL)  # as Python, numpy and pandas write one into a cell

_BETWEEN_WORDS = re.compile(r"[ \t\r\n]+")  # a no-break space is part of a word


def canonical(
    rows: Rows, columns: dict[str, str], task: type[BaseTask], part: str, key: str, separator: str = SEPARATOR
) -> Rows:
    """The rows with the task's fields under their own names; every other column stays as it was.

    An optional field that is empty in a row is left out of that row. Classes of a set that are written into one text
    stand between ``separator``.

    Raises:
        ConfigError: an empty field, a value of another type, or fields that do not fit each other.
    """
    done: Rows = []
    plain = _of_plain_texts(rows, columns, task)
    one_by_one = (
        with_fields(row, columns, task, f"row {number} of the {part}", key, separator)
        for number, row in enumerate(rows, start=1)
    )
    for number, new in enumerate(one_by_one if plain is None else plain, start=1):
        if "tokens" in columns and "tags" in columns and len(new["tokens"]) != len(new["tags"]):
            counts = f"{len(new['tokens'])} tokens but {len(new['tags'])} tags"
            raise ConfigError(f"row {number} of the {part} has {counts}; each token needs one", key=f"{key}.tags")
        try:
            task.check(new)
        except ConfigError as error:
            raise ConfigError(f"row {number} of the {part}: {error.message}", key=key) from None
        done.append(new)
    return done


def _of_plain_texts(rows: Rows, columns: Mapping[str, str], task: type[BaseTask]) -> Rows | None:
    """As ``with_fields`` of each row, column by column, in a fifth of the time; None where a field is not one plain
    text, with characters of ASCII, in every row."""
    done = list(map(dict, rows))
    for field, column in columns.items():
        values: list[Any] = [row.get(column) for row in rows]
        if (form := task.forms.get(field, "text")) not in ("text", "class") or set(map(type, values)) != {str}:
            return None
        if not all(values) or not all(map(str.isascii, values)) or any(map(str.isspace, values)):
            return None
        for new, value in zip(done, map(str.strip, values) if form == "class" else values, strict=True):
            new[field] = value
    return done


def with_fields(
    row: Mapping[str, Any],
    columns: Mapping[str, str],
    task: type[BaseTask],
    where: str,
    key: str,
    separator: str = SEPARATOR,
) -> dict[str, Any]:
    """A row with the fields that ``columns`` names, as ``canonical`` has them; ``where`` says which row it is.

    Raises:
        ConfigError: an empty field, or a value of another type.
    """
    new = dict(row)
    for field, column in columns.items():
        value, form = row.get(column), task.forms.get(field, "text")
        if form in ("text", "class") and type(value) is str and value.isascii() and not value.isspace() and value:
            new[field] = value.strip() if form == "class" else value  # as most are: there is nothing else to look at
            continue
        place = f"{where}, column {column!r}"
        value = _value(value, form, place, f"{key}.{field}", separator)
        if value is None and field in task.may_be_empty and row.get(column) is not None:
            value = []  # an empty cell or list, and no missing one
        if value is not None:
            new[field] = value
        elif field in task.optional_fields:
            new.pop(field, None)
        elif column in row:
            raise ConfigError(f"{place} is empty; fill it or drop the row", key=f"{key}.{field}")
        else:
            raise ConfigError(
                f"{where} has no column {column!r}{did_you_mean(column, list(row))}", key=f"{key}.{field}"
            )
    return new


def _value(value: Any, form: Form, place: str, key: str, separator: str) -> Any:
    """A field's value in its canonical form, or None where it is empty."""
    if form == "any":
        return value
    if form == "number":
        return _number(value, place, key)
    if form in ("words", "classes", "set"):
        between = f"classes between {separator!r}" if form == "set" else "words with spaces"
        if isinstance(value, str) and _LIST_AS_TEXT.fullmatch(value):
            raise ConfigError(
                f"{place} holds a list written as text ({value[:40]}); use JSONL or Parquet, or {between}", key=key
            )
        items = _items(value, form, separator) if isinstance(value, str) else value
        if items is not None and not isinstance(items, list):
            raise ConfigError(f"{place} is {type(value).__name__}, not a list or {between}", key=key)
        words = [_word(item, form != "words", place, key) for item in items or ()]
        if any(word is None for word in words):
            raise ConfigError(f"{place} holds an empty item", key=key)
        return (list(dict.fromkeys(words)) if form == "set" else words) or None
    return _word(value, form == "class", place, key)


def _items(text: str, form: Form, separator: str) -> list[str]:
    """Classes of a set, which may have spaces in them, or words."""
    if form == "set":
        return text.split(separator) if text.strip() else []
    return [word for word in _BETWEEN_WORDS.split(text) if word]


def _number(value: Any, place: str, key: str) -> float | None:
    """A finite number, also one that is written as text, as all cells of a CSV file are."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = math.nan if isinstance(value, bool) or "_" in str(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        hint = " with a point, such as 3.5" if "," in str(value) else ""
        raise ConfigError(
            f"{place} holds {type(value).__name__} ({str(value)[:40]}), expected a finite number{hint}", key=key
        )
    return number


def _word(value: Any, is_class: bool, place: str, key: str) -> str | None:
    if is_class and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        kinds = "text or a whole number" if is_class else "text"
        if is_class and isinstance(value, list):
            kinds += " (one class a row; task: multi-label takes several)"
        elif is_class and isinstance(value, float):
            kinds += " (task: regression predicts numbers)"
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            kinds += " (task: chat reads lists of turns)"
        raise ConfigError(f"{place} holds {type(value).__name__} ({str(value)[:40]}), expected {kinds}", key=key)
    if not value.isascii():
        _require_characters(value, place, key)
    return value.strip() if is_class else value


def _require_characters(value: str, place: str, key: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{place} holds half of a surrogate pair (\\u{ord(value[error.start]):04x}) at character {error.start + 1},"
            " which is no character; write the whole pair or drop it",
            key=key,
        ) from None
