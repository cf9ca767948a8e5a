"""A first look at rows that no config describes yet: which task they are for, and which column is which field.

Nothing is decided for good: what is guessed is said, and whoever writes the config may say otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from atlas_cli import tasks
from atlas_cli.data.rows import Rows
from atlas_cli.errors import ConfigError
from atlas_cli.suggest import did_you_mean

if TYPE_CHECKING:
    from atlas_cli.tasks.contract import BaseTask, Form

# what other programs and data sets call a field, likeliest first
_OTHER_NAMES: Mapping[str, Sequence[str]] = {
    "text": (
        "sentence",
        "message",
        "body",
        "content",
        "review",
        "comment",
        "document",
        "tweet",
        "sentence1",
        "premise",
    ),
    "text_pair": ("sentence2", "hypothesis"),
    "label": ("labels", "class", "category", "kind", "target", "sentiment", "topic", "score", "rating", "stars", "y"),
    "tokens": ("words", "forms"),
    "tags": ("ner_tags", "labels", "upos", "pos_tags"),
    "context": ("passage", "paragraph"),
    "answers": ("answer",),
    "choices": ("options", "endings"),
    "answer": ("label", "answerkey", "gold"),
    "prompt": ("instruction", "input", "question", "query"),
    "messages": ("conversations", "conversation"),
    "response": ("output", "answer", "completion", "reply"),
}
# the most telling columns first: nearly all rows have a text
_ORDER = (
    "multiple-choice",
    "question-answering",
    "token-classification",
    "chat",
    "instruction",
    "regression",
    "multi-label",
    "sequence-classification",
    "causal-lm",
)
_NAME = re.compile(r"[^\W\d]\w*([ ._/-][^\W\d]\w*){0,2}")  # of a column: up to three words
MOST_CLASSES = 50  # whole numbers of more kinds are a scale
_LOOKED_AT = 1000  # rows that a column's values are taken from


def columns_of(rows: Rows) -> list[str]:
    """All columns, in the order in which they first come."""
    return list(dict.fromkeys(column for row in rows for column in row))


def likely_task(rows: Rows) -> str | None:
    """The task that the columns are for; None where they fit none."""
    return next((name for name in _ORDER if _is_for(tasks.load(name), rows)), None)


def looks_like_a_row(rows: Rows) -> bool:
    """Whether the columns' names are likelier values: none is the name of a field, and one is also a value in its own
    column, or they are several of which nothing but a text is made and one is not written as names are."""
    columns = columns_of(rows)
    known = {name for field, others in _OTHER_NAMES.items() for name in (field, *others)} | {"question"}
    if any(str(column).lower() in known for column in columns):
        return False
    among = any(column in map(str, _values(rows, column)) for column in columns)
    if among or len(columns) < 2:
        return among
    named = all(_NAME.fullmatch(str(column)) for column in columns)
    return not named and likely_task(rows) == _ORDER[-1]


def fields_of(task: type[BaseTask], rows: Rows, given: Mapping[str, str]) -> dict[str, str]:
    """The column of each field of a task: the given one, else that of its name, else the likeliest.

    Raises:
        ConfigError: a given column or field is not there, or no column looks like a field that the task needs.
    """
    require_columns(task, rows, given)
    columns = columns_of(rows)
    found = dict(given)
    for field in (*task.fields, *task.optional_fields):
        if field in found:
            continue
        left = [column for column in columns if column not in found.values()]
        likely = _named(field, left)
        if likely is None and field in task.fields:
            likely = _likeliest(field, task.forms.get(field, "text"), left, rows)
        if likely is not None:
            found[field] = likely
        elif field in task.fields:
            raise ConfigError(
                f"no column looks like the {field} of the task (columns: {', '.join(columns)}); say which is, with"
                f" {field}=COLUMN",
                key="--column",
            )
    return found


def require_columns(task: type[BaseTask], rows: Rows, given: Mapping[str, str]) -> None:
    """Check what a user says of columns.

    Raises:
        ConfigError: the task has no such field, or the data no such column.
    """
    columns, fields = columns_of(rows), (*task.fields, *task.optional_fields)
    for field, column in given.items():
        if field not in fields:
            raise ConfigError(f"the task has no field {field!r}{did_you_mean(field, fields)}", key="--column")
        if column not in columns:
            raise ConfigError(f"the data has no column {column!r}{did_you_mean(column, columns)}", key="--column")


def _is_for(task: type[BaseTask], rows: Rows) -> bool:
    try:
        found = fields_of(task, rows, {})
    except ConfigError:
        return False
    if not all(_holds(task.forms.get(field, "text"), _values(rows, column)) for field, column in found.items()):
        return False
    if task.forms.get("label") != "number":
        return True
    numbers = [float(value) for value in _values(rows, found["label"])]
    return len(set(numbers)) > MOST_CLASSES or any(number != int(number) for number in numbers)


def _named(field: str, columns: Sequence[str]) -> str | None:
    by_name = {str(column).lower(): column for column in reversed(columns)}
    return next((by_name[name] for name in (field, *_OTHER_NAMES.get(field, ())) if name in by_name), None)


def _likeliest(field: str, form: Form, columns: Sequence[str], rows: Rows) -> str | None:
    """By what columns hold: the longest texts, or the fewest labels. Other fields have names of their own."""
    fitting = {column: values for column in columns if _holds(form, values := _values(rows, column))}
    if field == "text" and fitting:
        return max(fitting, key=lambda column: sum(map(len, fitting[column])))
    if field == "label" and form == "class":  # a column of numbers may be anything, and most often numbers the rows
        kinds = {column: len(set(values)) for column, values in fitting.items()}
        repeated = [column for column in kinds if 1 < kinds[column] <= len(rows) / 2]
        return min(repeated, key=lambda column: kinds[column], default=None)
    return None


def _values(rows: Rows, column: str) -> list[Any]:
    return [row[column] for row in rows[:_LOOKED_AT] if row.get(column) not in (None, "")]


def _holds(form: Form, values: Sequence[Any]) -> bool:
    """Whether values may be what a field holds; the reader of the data looks closer."""
    if not values:
        return False
    if form == "number":
        return all(_is_number(value) for value in values)
    if form in ("words", "classes", "set"):
        return all(isinstance(value, list) for value in values)
    if form == "any":
        return True
    if form == "class":
        return all(isinstance(value, str | int) and not isinstance(value, bool) for value in values)
    return all(isinstance(value, str) for value in values)


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False
