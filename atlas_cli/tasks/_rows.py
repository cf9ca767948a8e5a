"""Reading fields of a row: nothing is coerced, and what does not fit is named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from atlas_cli.errors import ConfigError
from atlas_cli.tasks.contract import Row

_SHOWN_CLASSES = 20
_LONG_TEXT = 100_000  # characters


def field(row: Row, name: str) -> Any:
    """A field of a row.

    Raises:
        ConfigError: the row has no such field.
    """
    if name not in row:
        raise ConfigError(
            f"a row has no field {name!r} (it has: {', '.join(map(str, row))}); map it with data.{name}: COLUMN"
        )
    return row[name]


def text(row: Row, name: str) -> str:
    """A field that must be text, as it is.

    Raises:
        ConfigError: missing, or not a string.
    """
    value = field(row, name)
    if not isinstance(value, str):
        raise ConfigError(
            f"field {name!r} must be text, not {type(value).__name__} ({_short(value)}); fix the data or the column"
        )
    return value


def class_name(value: Any, name: str) -> str:
    """The class name that a label stands for: a non-empty string, or an integer by its digits.

    Raises:
        ConfigError: empty or of another type.
    """
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ConfigError(f"field {name!r} must hold class names, not {type(value).__name__} ({_short(value)})")
    return str(value)


def class_id(label: str, class_ids: Mapping[str, int]) -> int:
    """The number of a class.

    Raises:
        ConfigError: not among the classes; names the label and the classes.
    """
    if label not in class_ids:
        more = f", ... ({len(class_ids)} in all)" if len(class_ids) > _SHOWN_CLASSES else ""
        raise ConfigError(
            f"label {label!r} is not among the classes: {', '.join(list(class_ids)[:_SHOWN_CLASSES])}{more}; "
            "add it to the group's classes or fix the data"
        )
    return class_ids[label]


@contextmanager
def cutting(tokenizer: Any, keep_end: bool) -> Iterator[None]:
    """Truncation by this tokenizer keeps the end of texts, or their start, whatever its own files say."""
    before = tokenizer.truncation_side
    tokenizer.truncation_side = "left" if keep_end else "right"
    try:
        yield
    finally:
        tokenizer.truncation_side = before


def enough(text: str, tokenizer: Any, max_length: int, keep_end: bool) -> str:
    """Of a very long text the start, or the end, with more tokens than are kept: tokenizing all of it takes 200 bytes a
    character. It is cut between words, and far from the tokens that are kept, so that these are the same.
    """
    size = _most_characters(max_length)
    while len(text) > size:
        parts = text[-size:].split(None, 1)[1:] if keep_end else text[:size].rsplit(None, 1)[:1]
        part = parts[0] if parts else text[:size]
        if len(tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]) >= 2 * max_length:
            return part
        size *= 4
    return text


def is_long(text: str, max_length: int) -> bool:
    """Whether ``enough`` cuts a text."""
    return len(text) > _most_characters(max_length)


def _most_characters(max_length: int) -> int:
    return max(_LONG_TEXT, 64 * max_length)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."
