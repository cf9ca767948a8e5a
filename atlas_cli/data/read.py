"""One task group's data: from its source to train rows, test rows and classes under the task's field names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from atlas_cli import discovery
from atlas_cli.data import holdout, labels
from atlas_cli.data.fields import canonical
from atlas_cli.data.rows import GroupData, Rows, SourceRows, identity
from atlas_cli.errors import ConfigError
from atlas_cli.seeding import numpy_generator
from atlas_cli.suggest import did_you_mean

if TYPE_CHECKING:
    from atlas_cli.config.schema import TaskGroupConfig
    from atlas_cli.config.task_groups import _DataFields as DataConfig
    from atlas_cli.tasks._base import BaseTask


def read_group(name: str, group: TaskGroupConfig, seed: int) -> GroupData:
    """Read, check, split and sample the data of one task group.

    The test part is the source's own where there is one; else ``test_fraction`` of the rows is held out, by whole
    documents where the rows name them, else with the same share of every label. Test rows that repeat a training row
    are dropped. Classes are those of all training rows, before ``limit``: a smaller sample does not change the head.

    Args:
        name: of the task group, for errors and generators.
        group: its config.
        seed: of the experiment.

    Raises:
        ConfigError: a column, field, label or part that is missing or does not fit; names the key and the row.
        ResourceError: the source is not there.
    """
    key = f"task_groups.{name}"
    data = cast("DataConfig", group.data)
    task: type[BaseTask] = discovery.load("tasks", group.task, key=f"{key}.task").Task
    if group.classes is not None and not task.has_classes:
        raise ConfigError(f"{group.task} has no classes; remove this key", key=f"{key}.classes")
    source = discovery.load("data.sources", data.source).load(data, f"{key}.data")
    columns = _columns(task, data, source.train, f"{key}.data")

    def read_part(rows: Rows, part: str) -> Rows:
        rows = canonical(rows, columns, task, part, f"{key}.data")
        if group.classes is not None:
            _check_labels(rows, task, group.classes, part, f"{key}.classes")
        elif task.has_classes:
            labels.require_names(rows, task.labels_in, part, f"{key}.data")
        return rows

    train = read_part(source.train, "training data")
    if source.test is None:
        train, test = _hold_out(train, task, data, source, seed, name)
    else:
        for option in ("test_fraction", "split_by"):
            if getattr(data, option) is not None:
                raise ConfigError("has no use here: the source has its own test part", key=f"{key}.data.{option}")
        test = read_part(source.test, "test data")
    known = {identity(row, list(columns)) for row in train}
    test = [row for row in test if identity(row, list(columns)) not in known]
    if not test:
        raise ConfigError("no test rows are left: each one repeats a training row", key=f"{key}.data")
    classes = group.classes or (_classes(train, test, task, key) if task.has_classes else [])
    notes = [*source.notes, *labels.class_notes(labels.counted([*train, *test], task.labels_in))]
    train = holdout.sample(train, data.limit, numpy_generator(seed, "limit", name))
    test = holdout.sample(test, data.test_limit, numpy_generator(seed, "test-limit", name))
    return GroupData(name, train, test, classes, source.origin, source.sha256, columns, tuple(notes))


def _columns(task: type[BaseTask], data: DataConfig, rows: Rows, key: str) -> dict[str, str]:
    """Task field to the column that holds it: the configured one, else the column of the field's own name."""
    present = list(dict.fromkeys(column for row in rows for column in row))
    columns = {}
    for field in (*task.fields, *task.optional_fields):
        column = getattr(data, field) or field
        if column in present:
            columns[field] = column
        elif field in task.fields or getattr(data, field):
            hint = did_you_mean(column, present)
            listed = "" if "expected" in hint else f" (columns: {', '.join(map(str, present))})"
            raise ConfigError(f"the data has no column {column!r}{hint}{listed}", key=f"{key}.{field}")
    return columns


def _hold_out(
    rows: Rows, task: type[BaseTask], data: DataConfig, source: SourceRows, seed: int, name: str
) -> tuple[Rows, Rows]:
    rng = numpy_generator(seed, "test-split", name)
    key = f"task_groups.{name}.data"
    column = data.split_by or source.split_by
    share = 0.2 if data.test_fraction is None else data.test_fraction
    if column is not None:
        present = list(dict.fromkeys(known for row in rows for known in row))
        if column not in present:
            raise ConfigError(
                f"the data has no column {column!r}{did_you_mean(column, present)}", key=f"{key}.split_by"
            )
        test = set(holdout.by_document([str(row.get(column)) for row in rows], share, rng))
        why = f"all rows share one value of {column!r}"
    else:
        test = set(holdout.by_label(_strata(rows, task), share, rng))
        why = "every label occurs once" if task.has_classes else "there is one row"
    if not test:
        raise ConfigError(f"no test part can be held out of {len(rows)} rows: {why}; give a test part", key=key)
    return [row for i, row in enumerate(rows) if i not in test], [row for i, row in enumerate(rows) if i in test]


def _strata(rows: Rows, task: type[BaseTask]) -> Sequence[str]:
    """The label of each row where a row has one; else the same for all."""
    return [task.labels_in(row)[0] for row in rows] if "label" in task.fields else [""] * len(rows)


def _check_labels(rows: Rows, task: type[BaseTask], classes: list[str], part: str, key: str) -> None:
    known = frozenset(classes)
    for number, row in enumerate(rows, start=1):
        for label in task.labels_in(row):
            if label not in known:
                hint = did_you_mean(label, classes)
                raise ConfigError(
                    f"row {number} of the {part} has the label {label!r}{hint}; add it or fix it", key=key
                )


def _classes(train: Rows, test: Rows, task: type[BaseTask], key: str) -> list[str]:
    classes = sorted({label for row in train for label in task.labels_in(row)})
    if len(classes) < 2:
        raise ConfigError(f"all training rows have the label {classes[0]!r}; at least 2 are needed", key=f"{key}.data")
    if unseen := sorted({label for row in test for label in task.labels_in(row)} - set(classes)):
        raise ConfigError(
            f"the label {unseen[0]!r} occurs only in the test part; list all classes here, or change the test part",
            key=f"{key}.classes",
        )
    return classes
