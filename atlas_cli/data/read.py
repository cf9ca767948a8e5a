"""One task group's data: from its source to training, test and validation rows and classes under the task's fields."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, cast

from atlas_cli import discovery
from atlas_cli.config.schema.partition import HoldoutConfig
from atlas_cli.data import class_names as labels
from atlas_cli.data.class_sets import SEPARATOR, as_list, of_columns, require_separator
from atlas_cli.data.hold_out import SHARE
from atlas_cli.data.partitions.holdout import sample
from atlas_cli.data.rows import Account, GroupData, RowNumbers, Rows, SourceRows, ValidationAccount
from atlas_cli.data.source_parts import Part, SourceParts
from atlas_cli.data.sources import read_source
from atlas_cli.data.task_fields import canonical
from atlas_cli.errors import ConfigError
from atlas_cli.printable import listed
from atlas_cli.seeding import numpy_generator
from atlas_cli.suggest import did_you_mean
from atlas_cli.tasks import load as load_task

if TYPE_CHECKING:
    from atlas_cli.config.schema.experiment import TaskGroupConfig
    from atlas_cli.config.schema.task_groups import _DataFields as DataConfig
    from atlas_cli.tasks.contract import BaseTask


def read_group(name: str, group: TaskGroupConfig, seed: int, holdout: HoldoutConfig | None = None) -> GroupData:
    """Read, check, split and sample the data of one task group.

    The test part is the source's own where there is one; else a share of the rows is held out, by whole documents where
    the rows name them, else with the same share of every label. The validation part is the source's own; else, where
    one is asked for, it is held out in the same way of what is left, so that the test part is what it is without one.
    Test rows that repeat another row of the source, and validation rows that repeat a training or test row, are
    counted; they are dropped from a held-out part and kept in the source's own. Classes are those of all training rows,
    before ``limit``: a smaller sample does not change the head.

    Args:
        name: the task group's name, for errors and generators.
        group: the config of the task group.
        seed: the seed of the data.
        holdout: which parts are held out, and what is done with rows that repeat others.

    Raises:
        ConfigError: a column, field, label or part that is missing or does not fit; names the key and the row.
        ResourceError: the source is missing.
    """
    holdout = HoldoutConfig() if holdout is None else holdout
    key, data = f"task_groups.{name}", cast("DataConfig", group.data)
    task = load_task(group.task, key=f"{key}.task")
    if group.classes is not None and not task.has_classes:
        raise ConfigError(f"{group.task} has no classes; remove this key", key=f"{key}.classes")
    source = _with_lists(read_source(data, f"{key}.data"), task, data, f"{key}.data")
    columns = _columns(task, data, source.train, f"{key}.data")
    _require_use(data, source, holdout, f"{key}.data")
    parts = SourceParts(name, group, task, source, columns, seed, holdout)
    if task.has_classes and not group.classes and not isinstance(data.label, list):
        labels.require_few(parts.rows, task.labels_in, f"{key}.data")
    asked = data.test_fraction if data.test_fraction is not None else holdout.test
    test = parts.take("test", SHARE if asked is None else asked)
    assert test is not None
    validation = parts.take("validation", holdout.validation)
    train, scored = parts.train, {"test": test.rows, "validation": validation.rows if validation is not None else []}
    classes = group.classes or (data.label if isinstance(data.label, list) else [])
    if task.has_classes and not classes:
        classes = _classes(train, scored, task, key)
    found = [*train, *parts.taken]
    notes = [*source.notes, *labels.class_notes(labels.count_labels(found, task.labels_in))]
    notes += labels.text_notes(found, [field for field in columns if task.forms.get(field, "text") in ("text", "any")])
    numbers = sample(parts.left, data.limit, numpy_generator(seed, "limit", name))
    limits = {"test": data.test_limit, "validation": data.validation_limit}
    used = {
        part: sample(rows, limits[part], numpy_generator(seed, f"{part}-limit", name)) for part, rows in scored.items()
    }
    return GroupData(
        name,
        [parts.rows[i] for i in numbers],
        used["test"],
        classes,
        source.origin,
        source.sha256,
        columns,
        numbered=RowNumbers(numbers, test.held_out, len(parts.rows), validation.held_out if validation else ()),
        account=_account(
            len(parts.rows), test, validation, len(numbers), {part: len(rows) for part, rows in used.items()}
        ),
        notes=tuple(notes),
        validation=used["validation"],
    )


def read_more(name: str, group: TaskGroupConfig, file: str, classes: Sequence[str]) -> tuple[Rows, tuple[str, ...]]:
    """The rows of another file for a task group, read as its own data is: its columns, in any format; and notes.

    Raises:
        ConfigError: a column or field that is missing or does not fit, or a label that is none of ``classes``.
        ResourceError: there is no such file.
    """
    key, data, task = f"task_groups.{name}.data", cast("DataConfig", group.data), load_task(group.task)
    columns = {field: getattr(data, field, None) for field in (*task.fields, *task.optional_fields, "label_separator")}
    columns["separator"] = data.separator if Path(file).suffix.lower() in (".csv", ".tsv") else None
    said = {option: value for option, value in columns.items() if value is not None}
    of_file = type(data).model_validate({"files": file, **said})
    try:
        source = _with_lists(read_source(of_file, key), task, of_file, key)
        found = _columns(task, of_file, source.train, key)
        rows = canonical(source.train, found, task, "data", key, data.label_separator or SEPARATOR)
    except ConfigError as error:
        raise ConfigError(error.message, key=error.key, where=file) from None
    known = frozenset(classes)
    for number, row in enumerate(rows, start=1):
        for label in task.labels_in(row):
            if label not in known:
                raise ConfigError(
                    f"row {number} has the label {label!r}{did_you_mean(label, classes)}; the model's classes are"
                    f" {listed(classes, most=10)}",
                    where=file,
                )
    return rows, source.notes


def _account(read: int, test: Part, validation: Part | None, train: int, used: Mapping[str, int]) -> Account:
    of_validation = None
    if (part := validation) is not None:
        of_validation = ValidationAccount(part.own, part.read, part.repeats, part.duplicates, used["validation"])
    return Account(read, test.own, test.read, test.repeats, test.duplicates, train, used["test"], of_validation)


def _require_use(data: DataConfig, source: SourceRows, holdout: HoldoutConfig, key: str) -> None:
    """Check that keys which say how a part is held out, or how much of it is used, are of one that there is."""
    own, validates = source.test is not None, source.validation is None and holdout.validation is not None
    for option, unused in {"test_fraction": own, "split_by": own and not validates}.items():
        if unused and getattr(data, option) is not None:
            raise ConfigError("has no use here: the source has its own test part", key=f"{key}.{option}")
    if data.validation_limit is not None and source.validation is None and not validates:
        raise ConfigError(
            "has no use here: there is no validation part; set holdout.validation, or remove this key",
            key=f"{key}.validation_limit",
        )


def _with_lists(source: SourceRows, task: type[BaseTask], data: DataConfig, key: str) -> SourceRows:
    """The source's rows, with one list for the columns that ``label`` or ``choices`` names: of 0 and 1, or of texts.

    Raises:
        ConfigError: a task of one label a row, or no sign of how a cell holds several.
    """
    several = task.forms.get("label") == "set"
    for option, given in (("label", isinstance(data.label, list)), ("label_separator", data.label_separator)):
        if given and not several:
            raise ConfigError("is for tasks of several classes a row (multi-label)", key=f"{key}.{option}")
    if isinstance(data.choices, list) and "choices" in task.fields:
        return _each_part(source, partial(as_list, field="choices", columns=data.choices), f"{key}.choices")
    if isinstance(data.label, list):
        return _each_part(source, partial(of_columns, classes=data.label), f"{key}.label")
    if several and data.label_separator is None:
        require_separator(source.train, data.label or "label", key)
    return source


def _each_part(source: SourceRows, change: Callable[..., Rows], key: str) -> SourceRows:
    """The source with the rows of all its parts changed."""

    def changed(rows: Rows | None, part: str) -> Rows | None:
        return None if rows is None else change(rows, part=part, key=key)

    test, validation = changed(source.test, "test data"), changed(source.validation, "validation data")
    train = change(source.train, part="training data", key=key)
    return replace(source, train=train, test=test, validation=validation)


def _columns(task: type[BaseTask], data: DataConfig, rows: Rows, key: str) -> dict[str, str]:
    """Task field to the column that holds it: the configured one, else the column of the field's own name."""
    present = list(dict.fromkeys(chain.from_iterable(rows)))
    columns = {}
    for field in (*task.fields, *task.optional_fields):
        configured = getattr(data, field, None)  # a task of another package may have fields that are no key
        column = configured if isinstance(configured, str) else own_column(task, field, present)
        if column in present:
            columns[field] = column
        elif field in task.fields or configured:
            hint = did_you_mean(column, present)
            listed = "" if "expected" in hint else f" (columns: {', '.join(map(str, present))})"
            listed += _fitting(present) if not columns and configured is None else ""
            raise ConfigError(f"the data has no column {column!r}{hint}{listed}", key=f"{key}.{field}")
    return columns


def _fitting(present: Collection[str]) -> str:
    """The tasks whose columns are there by name, for who has given another; empty where there is none."""
    names = [name for name in discovery.own_names("tasks") if _has_all(load_task(name), present)]
    return f"; these are columns of task: {' or '.join(names)}" if names else ""


def _has_all(task: type[BaseTask], present: Collection[str]) -> bool:
    return all(own_column(task, field, present) in present for field in task.fields)


def own_column(task: type[BaseTask], field: str, present: Collection[str]) -> str:
    """The column of a field of which the config says nothing: that of its name, or of another that the task knows."""
    names = (field, *task.other_names.get(field, ()))
    return next((name for name in names if name in present), field)


def _classes(train: Rows, scored: Mapping[str, Rows], task: type[BaseTask], key: str) -> list[str]:
    classes = sorted(set(chain.from_iterable(map(task.labels_in, train))))
    if len(classes) < 2:
        what = f"all training rows have the label {classes[0]!r}" if classes else "no training row has a label"
        raise ConfigError(f"{what}; at least 2 classes are needed", key=f"{key}.data")
    for part, rows in scored.items():
        if unseen := sorted({label for row in rows for label in task.labels_in(row)} - set(classes)):
            raise ConfigError(
                f"the label {unseen[0]!r} occurs only in the {part} part; list all classes here, or change the {part}"
                " part",
                key=f"{key}.classes",
            )
    return classes
