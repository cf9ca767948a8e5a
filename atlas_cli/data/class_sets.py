"""Several values of one field in the rows of a table: between bars in one cell, or in a column each."""

from __future__ import annotations

from atlas_cli.data.rows import Rows
from atlas_cli.errors import ConfigError
from atlas_cli.suggest import did_you_mean

SEPARATOR = "|"  # between the classes in a cell
_OTHER_SEPARATORS = (",", ";", "/")


def of_columns(rows: Rows, classes: list[str], part: str, key: str) -> Rows:
    """The rows with one list ``label`` instead of a column for each class, which holds 0 or 1.

    Raises:
        ConfigError: a column that is not there, or holds something else.
    """
    done = as_list(rows, "label", classes, part, key)
    for number, row in enumerate(done, start=1):
        for name, value in zip(classes, row["label"], strict=True):
            if value not in (0, 1, "0", "1"):
                raise ConfigError(
                    f"row {number} of the {part}, column {name!r} holds {value!r:.40}, expected 0 or 1", key=key
                )
        row["label"] = [name for name, value in zip(classes, row["label"], strict=True) if int(value)]
    return done


def as_list(rows: Rows, field: str, columns: list[str], part: str, key: str) -> Rows:
    """The rows with one list under the name of a field instead of several columns.

    Raises:
        ConfigError: a column that is not there.
    """
    done = []
    for number, row in enumerate(rows, start=1):
        for name in columns:
            if name not in row:
                raise ConfigError(
                    f"row {number} of the {part} has no column {name!r}{did_you_mean(name, list(row))}", key=key
                )
        rest = {column: value for column, value in row.items() if column not in columns}
        done.append({**rest, field: [row[name] for name in columns]})
    return done


def require_separator(rows: Rows, column: str, key: str) -> None:
    """Check that cells of several classes are split at the bar, where a config says nothing of it.

    Raises:
        ConfigError: no cell holds a bar, and some hold another separator.
    """
    cells = [value for row in rows if isinstance(value := row.get(column), str)]
    others = [mark for mark in _OTHER_SEPARATORS if any(mark in cell for cell in cells)]
    if others and not any(SEPARATOR in cell for cell in cells):
        cell = next(cell for cell in cells if others[0] in cell)
        raise ConfigError(
            f"no cell of column {column!r} has classes between {SEPARATOR!r}, and some hold {others[0]!r} ({cell!r:.60}"
            f"); say what stands between classes, e.g. {others[0]!r}",
            key=f"{key}.label_separator",
        )
