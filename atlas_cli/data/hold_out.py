"""Which rows of a source are held out, to test or to validate on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atlas_cli.data.partitions.holdout import by_document, by_label
from atlas_cli.data.rows import Rows, SourceRows
from atlas_cli.errors import ConfigError
from atlas_cli.seeding import numpy_generator
from atlas_cli.suggest import did_you_mean
from atlas_cli.tasks.contract import BaseTask

if TYPE_CHECKING:
    from atlas_cli.config.schema.task_groups import _DataFields as DataConfig

SHARE = 0.2  # of the rows, to test on


def hold_out(
    part: str,
    rows: Rows,
    among: Sequence[int],
    size: float,
    task: type[BaseTask],
    data: DataConfig,
    source: SourceRows,
    seed: int,
    name: str,
) -> list[int]:
    """Sorted numbers of the rows of a part, drawn from ``among``: whole documents where the rows name them, else the
    same share of every label.

    Args:
        part: "test" or "validation".
        size: the share of all rows, or, as a whole number, how many.
        name: of the task group.

    Raises:
        ConfigError: rows without a document, or too few rows.
    """
    rng = numpy_generator(seed, f"{part}-split", name)
    key = f"task_groups.{name}.data"
    wanted = size if isinstance(size, int) else size * len(rows)
    if wanted >= len(among):
        what = f"{size:,} rows" if isinstance(size, int) else f"a share of {size:g}"
        raise ConfigError(
            f"no {part} part of {what} can be held out of {len(rows):,} rows, of which {len(among):,} are left; make it"
            " smaller, or give one",
            key=f"holdout.{part}",
        )
    share = size / len(among) if isinstance(size, int) else size * (len(rows) / len(among))
    column = data.split_by or source.split_by
    if column is not None:
        documents = _documents(rows, column, part, f"{key}.split_by")
        found = by_document([documents[i] for i in among], share, rng)
        why = f"all rows share one value of {column!r}"
    else:
        found = by_label(_strata([rows[i] for i in among], task), share, rng)
        why = "every label occurs once" if task.has_classes else "there is one row"
    if not found:
        raise ConfigError(f"no {part} part can be held out of {len(among)} rows: {why}; give a {part} part", key=key)
    return [among[i] for i in found]


def _documents(rows: Rows, column: str, part: str, key: str) -> list[str]:
    """The value of each row in a column, which all rows have."""
    present = list(dict.fromkeys(known for row in rows for known in row))
    if column not in present:
        raise ConfigError(f"the data has no column {column!r}{did_you_mean(column, present)}", key=key)
    if missing := [number for number, row in enumerate(rows, start=1) if row.get(column) in (None, "")]:
        raise ConfigError(
            f"{len(missing)} of {len(rows)} rows have no value in column {column!r}, the first is row {missing[0]};"
            f" fill it, or give a {part} part",
            key=key,
        )
    return [str(row[column]) for row in rows]


def _strata(rows: Rows, task: type[BaseTask]) -> Sequence[str]:
    """The class of each row where a row is of one; else the same for all."""
    return [task.labels_in(row)[0] for row in rows] if task.one_class else [""] * len(rows)
