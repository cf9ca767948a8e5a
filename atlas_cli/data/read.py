"""One task group's data: from its source to train rows, test rows and classes under the task's field names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, cast

from atlas_cli.data import class_names as labels
from atlas_cli.data.class_sets import SEPARATOR, of_columns, require_separator
from atlas_cli.data.partitions import holdout
from atlas_cli.data.rows import Account, GroupData, RowNumbers, Rows, SourceRows, identity
from atlas_cli.data.sources import read_source
from atlas_cli.data.task_fields import canonical
from atlas_cli.errors import ConfigError
from atlas_cli.seeding import numpy_generator
from atlas_cli.suggest import did_you_mean
from atlas_cli.tasks import load as load_task

if TYPE_CHECKING:
    from atlas_cli.config.schema.experiment import TaskGroupConfig
    from atlas_cli.config.schema.task_groups import _DataFields as DataConfig
    from atlas_cli.tasks.contract import BaseTask

Duplicates = Literal["drop", "keep", "error"]


def read_group(name: str, group: TaskGroupConfig, seed: int, duplicates: Duplicates | None = None) -> GroupData:
    """Read, check, split and sample the data of one task group.

    The test part is the source's own where there is one; else ``test_fraction`` of the rows is held out, by whole
    documents where the rows name them, else with the same share of every label. Test rows that repeat a training row
    are counted; they are dropped from a held-out part and kept in the source's own. Classes are those of all
    training rows, before ``limit``: a smaller sample does not change the head.

    Args:
        name: the task group's name, for errors and generators.
        group: the config of the task group.
        seed: the seed of the data.
        duplicates: what to do with test rows that repeat a training row, if not the default above.

    Raises:
        ConfigError: a column, field, label or part that is missing or does not fit; names the key and the row.
        ResourceError: the source is missing.
    """
    key = f"task_groups.{name}"
    data = cast("DataConfig", group.data)
    task = load_task(group.task, key=f"{key}.task")
    if group.classes is not None and not task.has_classes:
        raise ConfigError(f"{group.task} has no classes; remove this key", key=f"{key}.classes")
    source = _with_label_lists(read_source(data, f"{key}.data"), task, data, f"{key}.data")
    columns = _columns(task, data, source.train, f"{key}.data")

    def read_part(rows: Rows, part: str) -> Rows:
        rows = canonical(rows, columns, task, part, f"{key}.data", data.label_separator or SEPARATOR)
        if group.classes is not None:
            _check_labels(rows, task, group.classes, part, f"{key}.classes")
        elif task.has_classes:
            labels.require_names(rows, task.labels_in, part, f"{key}.data")
        return rows

    rows = read_part(source.train, "training data")
    if task.has_classes and not group.classes and not isinstance(data.label, list):
        labels.require_few(rows, task.labels_in, f"{key}.data")
    held_out: list[int] = []
    if source.test is None:
        held_out = _hold_out(rows, task, data, source, seed, name)
        test = [rows[i] for i in held_out]
    else:
        for option in ("test_fraction", "split_by"):
            if getattr(data, option) is not None:
                raise ConfigError("has no use here: the source has its own test part", key=f"{key}.data.{option}")
        for field in (field for field in task.optional_fields if field not in columns):
            if any(field in row for row in source.test):
                raise ConfigError(
                    f"the test data has a column {field!r} and the training data has none; a model would be tested on"
                    " what it was not trained on",
                    key=f"{key}.data.{field}",
                )
        for field in (field for field in task.optional_fields if field in columns):
            if not any(columns[field] in row for row in source.test):
                raise ConfigError(
                    f"the training data has a column {columns[field]!r} and the test data has none; a model would be"
                    " tested on what it was not trained on",
                    key=f"{key}.data.{field}",
                )
        test = read_part(source.test, "test data")
    out = frozenset(held_out)
    numbers = [i for i in range(len(rows)) if i not in out]
    known = {identity(rows[i], list(columns)) for i in numbers}
    repeats = frozenset(i for i, row in enumerate(test) if identity(row, list(columns)) in known)
    rule = _rule(duplicates, repeats, test, source.test is not None, name)
    left = [row for i, row in enumerate(test) if rule == "keep" or i not in repeats]
    if not left:
        raise ConfigError(
            f"no test rows are left: each of the {len(test)} repeats a training row; give other test rows, or set"
            " holdout.duplicates: keep",
            key=f"{key}.data",
        )
    classes = group.classes or (data.label if isinstance(data.label, list) else [])
    if task.has_classes and not classes:
        classes = _classes([rows[i] for i in numbers], left, task, key)
    found = [*(rows[i] for i in numbers), *left]
    notes = [*source.notes, *labels.class_notes(labels.count_labels(found, task.labels_in))]
    notes += labels.text_notes(found, [field for field in columns if task.forms.get(field, "text") in ("text", "any")])
    numbers = holdout.sample(numbers, data.limit, numpy_generator(seed, "limit", name))
    left = holdout.sample(left, data.test_limit, numpy_generator(seed, "test-limit", name))
    return GroupData(
        name,
        [rows[i] for i in numbers],
        left,
        classes,
        source.origin,
        source.sha256,
        columns,
        numbered=RowNumbers(numbers, held_out, len(rows)),
        account=Account(len(rows), source.test is not None, len(test), len(repeats), rule, len(numbers), len(left)),
        notes=tuple(notes),
    )


def _rule(
    asked: Duplicates | None, repeats: Collection[int], test: Rows, own_test: bool, name: str
) -> Literal["drop", "keep"]:
    """What becomes of test rows that repeat a training row; a user's own test part is changed only when asked for.

    Raises:
        ConfigError: there are some, and ``holdout.duplicates`` is ``error``.
    """
    if asked == "error" and repeats:
        raise ConfigError(
            f"{len(repeats)} of {len(test)} test rows of task group {name} repeat a training row, the first is test row"
            f" {min(repeats) + 1}; make the parts differ, or use drop or keep",
            key="holdout.duplicates",
        )
    if asked is None or asked == "error":
        return "keep" if own_test else "drop"
    return asked


def _with_label_lists(source: SourceRows, task: type[BaseTask], data: DataConfig, key: str) -> SourceRows:
    """The source's rows, with one list for the columns of 0 and 1 that ``label`` names.

    Raises:
        ConfigError: a task of one label a row, or no sign of how a cell holds several.
    """
    several = task.forms.get("label") == "set"
    for option, given in (("label", isinstance(data.label, list)), ("label_separator", data.label_separator)):
        if given and not several:
            raise ConfigError("is for tasks of several classes a row (multi-label)", key=f"{key}.{option}")
    if isinstance(data.label, list):
        train = of_columns(source.train, data.label, "training data", f"{key}.label")
        test = None if source.test is None else of_columns(source.test, data.label, "test data", f"{key}.label")
        return replace(source, train=train, test=test)
    if several and data.label_separator is None:
        require_separator(source.train, data.label or "label", key)
    return source


def _columns(task: type[BaseTask], data: DataConfig, rows: Rows, key: str) -> dict[str, str]:
    """Task field to the column that holds it: the configured one, else the column of the field's own name."""
    present = list(dict.fromkeys(column for row in rows for column in row))
    columns = {}
    for field in (*task.fields, *task.optional_fields):
        configured = getattr(data, field, None)  # a task of another package may have fields that are no key
        column = configured if isinstance(configured, str) else field
        if column in present:
            columns[field] = column
        elif field in task.fields or configured:
            hint = did_you_mean(column, present)
            listed = "" if "expected" in hint else f" (columns: {', '.join(map(str, present))})"
            raise ConfigError(f"the data has no column {column!r}{hint}{listed}", key=f"{key}.{field}")
    return columns


def _hold_out(
    rows: Rows, task: type[BaseTask], data: DataConfig, source: SourceRows, seed: int, name: str
) -> list[int]:
    """Sorted numbers of the rows to test on."""
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
        if missing := [number for number, row in enumerate(rows, start=1) if row.get(column) in (None, "")]:
            raise ConfigError(
                f"{len(missing)} of {len(rows)} rows have no value in column {column!r}, the first is row {missing[0]};"
                " fill it, or give a test part",
                key=f"{key}.split_by",
            )
        test = holdout.by_document([str(row[column]) for row in rows], share, rng)
        why = f"all rows share one value of {column!r}"
    else:
        test = holdout.by_label(_strata(rows, task), share, rng)
        why = "every label occurs once" if task.has_classes else "there is one row"
    if not test:
        raise ConfigError(f"no test part can be held out of {len(rows)} rows: {why}; give a test part", key=key)
    return test


def _strata(rows: Rows, task: type[BaseTask]) -> Sequence[str]:
    """The class of each row where a row is of one; else the same for all."""
    return [task.labels_in(row)[0] for row in rows] if task.one_class else [""] * len(rows)


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
        what = f"all training rows have the label {classes[0]!r}" if classes else "no training row has a label"
        raise ConfigError(f"{what}; at least 2 classes are needed", key=f"{key}.data")
    if unseen := sorted({label for row in test for label in task.labels_in(row)} - set(classes)):
        raise ConfigError(
            f"the label {unseen[0]!r} occurs only in the test part; list all classes here, or change the test part",
            key=f"{key}.classes",
        )
    return classes
