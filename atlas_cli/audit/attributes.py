"""The values of a column of the data, which an attack is to find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atlas_cli.data.rows import GroupData
from atlas_cli.errors import ConfigError
from atlas_cli.suggest import did_you_mean

MOST_VALUES = 100  # of what is a property of texts and not a number or a name of each


def require_attribute(groups: Mapping[str, GroupData], column: str) -> None:
    """Refuse a column that no task group has, or that says nothing of texts.

    Raises:
        ConfigError: no task group has it, or in none has it 2 to ``MOST_VALUES`` values.
    """
    holds = {name: group for name, group in groups.items() if any(column in row for row in group.train)}
    if not holds:
        columns = {str(name) for group in groups.values() for row in group.train for name in row}
        raise ConfigError(f"no task group has a column {column!r}{did_you_mean(column, columns)}", key="--attribute")
    counts = {name: len(attribute_values(group.train, column)) for name, group in holds.items()}
    if not any(2 <= count <= MOST_VALUES for count in counts.values()):
        found = ", ".join(f"{count:,} in task group {name}" for name, count in counts.items())
        raise ConfigError(
            f"column {column!r} has {found}: name one of 2 to {MOST_VALUES} values, such as a topic or a source",
            key="--attribute",
        )


def attribute_values(rows: Sequence[Mapping[str, Any]], column: str) -> list[str]:
    """The values of a column, sorted, as text; rows without one are left out."""
    return sorted({value for row in rows if (value := value_of(row, column)) is not None})


def value_of(row: Mapping[str, Any], column: str) -> str | None:
    """The value of a row as text; None where it has none."""
    value = row.get(column)
    return None if value is None else str(value)
