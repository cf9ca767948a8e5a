"""Several classes in the rows of a table: between bars in one cell, or a column of 0 and 1 for each class."""

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
    done = []
    for number, row in enumerate(rows, start=1):
        for name in classes:
            if name not in row:
                raise ConfigError(
                    f"row {number} of the {part} has no column {name!r}{did_you_mean(name, list(row))}", key=key
                )
            if row[name] not in (0, 1, "0", "1"):
                raise ConfigError(
                    f"row {number} of the {part}, column {name!r} holds {row[name]!r:.40}, expected 0 or 1", key=key
                )
        rest = {column: value for column, value in row.items() if column not in classes}
        done.append({**rest, "label": [name for name in classes if int(row[name])]})
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
