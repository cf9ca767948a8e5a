"""What ``atlas init`` puts into a config: from a model alone, or from a look at data as ``atlas train`` reads it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from atlas_cli.config.template import ClientStart, GroupStart, Start, name_for
from atlas_cli.errors import AtlasError, ConfigError

if TYPE_CHECKING:
    from atlas_cli.data.rows import GroupData, Rows
    from atlas_cli.tasks.contract import BaseTask

LONGEST = 512  # tokens: more are for whoever knows why
_SAMPLE = 500  # rows whose tokens are counted
_PER_CLIENT = 20  # rows: with fewer, skewed shares would leave clients without any


class Wanted(NamedTuple):
    """What the user said, on the command line or when asked."""

    data: Path | None = None
    task: str | None = None
    columns: Mapping[str, str] = {}
    clients: int | None = None
    devices: Sequence[str] = ()
    model: str | None = None


def start_with(wanted: Wanted, out: Path) -> Start:
    """What the config at ``out`` is to say.

    Raises:
        ConfigError: options or data that do not fit each other, a task or a device that does not exist.
        ResourceError: the data or the model cannot be found.
    """
    if wanted.data is not None:
        return _with_data(wanted, wanted.data, out)
    if wanted.task is not None or wanted.columns:
        raise ConfigError("needs --data FILE", key="--task" if wanted.task is not None else "--column")
    start = model_start(wanted.model or "minilm")
    if wanted.clients is None and not wanted.devices:
        return start
    return replace(start, clients=clients_for(["questions", "spam"], wanted.clients, wanted.devices))


@contextmanager
def following(start: Start) -> Iterator[None]:
    """Say beside an error what was guessed of the data: the error may follow from it."""
    try:
        yield
    except AtlasError as error:
        if start.guessed:
            error.add_note(f"{start.about[0]}; {start.guessed}")
        raise


def read_rows(data: Path) -> Rows:
    """The rows of a file, as ``atlas train`` reads them."""
    from atlas_cli.config.schema.experiment import DataConfig
    from atlas_cli.data.sources import read_source

    return read_source(DataConfig.model_validate({"files": str(data)}), "data").train


def default_model(task: str) -> str:
    """A packaged model that a task can be trained on."""
    from atlas_cli import tasks

    return "smollm2-135m" if tasks.load(task, key="--task").causal_only else "minilm"


def model_start(model: str) -> Start:
    """A start with a model, whose config is read (a packaged one is not fetched for it).

    Raises:
        ResourceError: there is no such model; says what can be given instead.
        ConfigError: its architecture is not supported.
    """
    from atlas_cli.config.schema.experiment import ModelConfig
    from atlas_cli.models.families import family_of
    from atlas_cli.models.files.resolve import model_config
    from atlas_cli.packages.models import MODELS

    if model in MODELS and not Path(model).exists():
        if (model_type := MODELS[model].model_type) is None:
            raise ConfigError(
                f"{model} is a tokenizer without a model; atlas models lists the models", key="model.name"
            )
        return Start(model, decoder=family_of(model_type).causal)
    config, source, _ = model_config(ModelConfig(name=model, init="auto"))
    decoder = family_of(config).causal
    if source is not None:
        return Start(model, decoder=decoder)
    # a known architecture whose weights cannot be reached now
    return Start(model, init="auto", tokenizer="gpt2-bpe" if config.model_type == "gpt2" else None, decoder=decoder)


def clients_for(groups: Sequence[str], count: int | None, devices: Sequence[str]) -> dict[str, ClientStart]:
    """Clients of every group: on devices those with less memory get lower ranks; else half of them do.

    Raises:
        ConfigError: a device that does not exist, or more devices than clients.
    """
    from atlas_cli.planning.devices.devices import find_device

    found = sorted((find_device(name, key="--device") for name in devices), key=lambda device: device.memory or 0)
    kinds: list[tuple[str, dict[str, str]]] = [(device.name, {"device": device.name}) for device in found]
    total = max(4, len(kinds)) if count is None else count
    if total < len(kinds):
        raise ConfigError(f"{total} clients cannot have {len(kinds)} devices", key="--clients")
    if not kinds:
        kinds = [("small", {}), ("large", {})] if total > 1 else [("client", {})]
    ranks = [4 * 2**i for i in range(len(kinds))] if found else [4, 16][-len(kinds) :]
    clients = {}
    for group in groups:
        for i, (name, keys) in enumerate(kinds):
            alike = total // len(kinds) + (i < total % len(kinds))
            own: dict[str, str | int] = {"task_group": group, **keys, "rank": min(ranks[i], 64)}
            clients[f"{group}-{name}" if len(groups) > 1 else name] = ClientStart(
                own | ({"count": alike} if alike > 1 else {})
            )
    return clients


def _with_data(wanted: Wanted, data: Path, out: Path) -> Start:
    from atlas_cli.config.schema.experiment import TaskGroupConfig
    from atlas_cli.data.first_look import columns_of, fields_of, likely_task
    from atlas_cli.data.read import read_group

    rows = read_rows(data)
    if wanted.task is None and not wanted.columns and data.suffix.lower() in (".csv", ".tsv"):
        _require_header(data, rows)
    task_name = wanted.task or likely_task(rows)
    if task_name is None:
        columns = ", ".join(columns_of(rows))
        raise ConfigError(f"the columns ({columns}) are for no task that is known; give --task", where=str(data))
    task = _task(task_name)
    fields = fields_of(task, rows, wanted.columns)
    keys = {field: column for field, column in fields.items() if field != column}
    name = name_for(data.stem, "data")
    group = TaskGroupConfig.model_validate({"task": task_name, "data": {"files": str(data), **keys}})
    seen = Start("", about=[_seen(data, task_name, rows, fields)], guessed=_guessed(wanted, fields))
    with following(seen):
        start = model_start(wanted.model or default_model(task_name))
        clients = clients_for([name], wanted.clients, wanted.devices)
        try:
            found = read_group(name, group, seed=0)
            lengths, max_length = _lengths(start, task_name, found)
        except ConfigError as error:
            raise ConfigError(error.message, where=str(data)) from None
    few = len(found.train) < _PER_CLIENT * sum(int(each.keys.get("count", 1)) for each in clients.values())
    return replace(
        start,
        name=name,
        groups={name: GroupStart(task_name, {"files": _from(out, data), **keys})},
        clients=clients,
        about=[*seen.about, *_about(name, data, task_name, found), lengths],
        guessed=seen.guessed,
        scheme="dirichlet-label" if task.one_class and not few else "iid",
        max_length=max_length,
    )


def _from(out: Path, data: Path) -> str:
    """The path of the data as the config has it: from the config's folder, where there is a way."""
    if data.is_absolute():
        return data.as_posix()
    try:
        return Path(os.path.relpath(data, out.parent)).as_posix()
    except ValueError:  # another drive
        return data.absolute().as_posix()


def _task(name: str) -> type[BaseTask]:
    from atlas_cli import discovery, tasks

    try:
        return tasks.load(name, key="--task")
    except ConfigError as error:
        if error.message.endswith("?"):  # the nearest alone is named
            error.add_note(f"the tasks are: {', '.join(discovery.names('tasks'))}")
        raise


def _require_header(data: Path, rows: Rows) -> None:
    """Refuse to guess from a first line that looks like a row: what is guessed would be of names that are none.

    Raises:
        ConfigError: no column has a name that is known, and they look like values or like nothing but text.
    """
    from atlas_cli.data.first_look import columns_of, looks_like_a_row
    from atlas_cli.printable import on_one_line

    if looks_like_a_row(rows):
        columns = on_one_line(", ".join(map(repr, columns_of(rows))))
        raise ConfigError(
            f"the first line names the columns: {columns:.200}; is the header line missing? Put one on top, e.g. "
            "text,label, or say what is meant: --task TASK, --column FIELD=COLUMN",
            where=str(data),
        )


def _guessed(wanted: Wanted, fields: Mapping[str, str]) -> str:
    """What was not said, and the options that say it."""
    own = [field for field in fields if field not in wanted.columns]
    columns = "columns" if not wanted.columns else f"the column of {' and '.join(own)}"
    parts = [("task", "--task")] * (wanted.task is None) + [(columns, "--column")] * bool(own)
    if not parts:
        return ""
    what, options = (" and ".join(part) for part in zip(*parts, strict=True))
    one = len(parts) == 1 and what != "columns"
    return f"{what} {'is' if one else 'are'} guessed: {options} {'chooses' if len(parts) == 1 else 'choose'} others"


def _seen(data: Path, task_name: str, rows: Rows, fields: Mapping[str, str]) -> str:
    """The first line on the data: how many rows, for what, and which column is what."""
    from atlas_cli import tasks
    from atlas_cli.data.first_look import columns_of
    from atlas_cli.printable import on_one_line

    task = tasks.load(task_name)
    found = {field: fields[field] for field in (*task.fields, *task.optional_fields) if field in fields}
    used = ", ".join(f if f == column else f"{f} is {column}" for f, column in found.items())
    unread = [str(column) for column in columns_of(rows) if column not in found.values()]
    return on_one_line(
        f"{data.name}: {len(rows):,} rows for {task_name}; {used}"
        + (f"; not read: {', '.join(unread)}" if unread else "")
    )


def _about(name: str, data: Path, task_name: str, found: GroupData) -> list[str]:
    """What else was seen, a line each."""
    from atlas_cli import tasks
    from atlas_cli.data.class_names import count_labels, counts_sentence
    from atlas_cli.printable import on_one_line

    lines = [] if name == data.stem else [f"the task group is named {name}: names have a to z, A to Z, 0 to 9, . _ -"]
    if found.classes:
        counts = count_labels([*found.train, *found.test], tasks.load(task_name).labels_in)
        left_out = found.account.read - len(found.train) - len(found.test)
        without = f" ({left_out:,} test rows that repeat training rows are left out)" if left_out else ""
        lines.append(f"{len(found.classes)} classes: {counts_sentence(counts)}{without}")
    return [on_one_line(line) for line in (*lines, *found.notes)]


def _lengths(start: Start, task_name: str, found: GroupData) -> tuple[str, int]:
    """How long the rows are in tokens, in words, and a ``max_length`` that cuts few of them."""
    from atlas_cli import tasks
    from atlas_cli.config.schema.experiment import ModelConfig
    from atlas_cli.models.families import family_of
    from atlas_cli.models.files.resolve import model_config
    from atlas_cli.models.frozen.load import load_tokenizer

    options: dict[str, Any] = {"name": start.model, "init": start.init, "tokenizer": start.tokenizer}
    model = ModelConfig(**options)
    tokenizer = load_tokenizer(model)
    config = model_config(model)[0]
    most = min(family_of(config).positions(config) or LONGEST, LONGEST)
    task = tasks.build(task_name, found.classes)
    features = [feature for row in found.train[:_SAMPLE] for feature in task.encode(row, tokenizer, most)]
    counts = sorted(len(feature["input_ids"]) for feature in features) or [most]
    middle, nearly_all = counts[len(counts) // 2], counts[int(0.95 * (len(counts) - 1))]
    text = f"tokens: half of the examples have at most {middle}, 95 % at most {nearly_all}, the longest {counts[-1]}"
    return text + " or more" * (counts[-1] >= most), min(most, 16 * -(-nearly_all // 16))
