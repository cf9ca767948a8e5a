"""What ``atlas init`` asks on a terminal: each question with a default, from what was seen in the data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from atlas_cli.cli._arguments import model_named_as
from atlas_cli.cli._start import Wanted, clients_for, default_model, model_start, read_rows
from atlas_cli.errors import AtlasError, ConfigError
from atlas_cli.printable import printable
from atlas_cli.storage.new_file import require_free

if TYPE_CHECKING:
    from atlas_cli.data.rows import Rows
    from atlas_cli.tasks.contract import BaseTask

NONE = "-"
T = TypeVar("T")


def ask(default_out: Path) -> tuple[Wanted, Path]:
    """Ask for everything that a config for own data, or for packaged corpora, needs."""
    from atlas_cli import discovery, tasks
    from atlas_cli.data.first_look import columns_of, likely_task

    typer.echo("Enter takes what stands in brackets; Ctrl-C ends without writing anything.")
    found = _asked("data file, or - for packaged corpora", NONE, _data)
    wanted = Wanted()
    if found is not None:
        data, rows = found
        typer.echo(printable(f"{len(rows):,} rows with the columns {', '.join(map(str, columns_of(rows)))}"))
        names = ", ".join(discovery.names("tasks"))
        task = _asked(f"task ({names})", likely_task(rows), lambda text: discovery.find("tasks", text).name)
        wanted = Wanted(data, task, _ask_columns(tasks.load(task), rows))
    clients = _asked("number of clients", "4", _count)
    names = "their devices, with commas between (atlas devices), or - for none"
    devices = _asked(names, NONE, lambda text: _devices(text, clients))
    usual = default_model(wanted.task) if wanted.task else "minilm"
    model = _asked("model", usual, _model)
    out = _asked("file to write", str(default_out), _free)
    return wanted._replace(clients=clients, devices=devices, model=model), out


def _asked(question: str, default: str | None, read: Callable[[str], T]) -> T:
    """The answer as it is read; what cannot be read is said, and asked again."""
    while True:
        answer = typer.prompt(question, default=default).strip()
        try:
            return read(answer)
        except AtlasError as error:
            typer.echo(printable(f"  {error}"))


def _data(text: str) -> tuple[Path, Rows] | None:
    return None if text == NONE else (Path(text), read_rows(Path(text)))


def _model(text: str) -> str:
    with model_named_as("model"):
        return model_start(text).model


def _ask_columns(task: type[BaseTask], rows: Rows) -> dict[str, str]:
    from atlas_cli.data.first_look import fields_of, require_columns

    chosen: dict[str, str] = {}
    for field in task.fields:
        try:
            likely = fields_of(task, rows, chosen)[field]
        except ConfigError:
            likely = None

        def read(text: str, field: str = field) -> str:
            require_columns(task, rows, {field: text})
            return text

        chosen[field] = _asked(f"column of the {field}", likely, read)
    return chosen


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ConfigError(f"expected a whole number from 1 on, got {text}")
    return int(text)


def _devices(text: str, clients: int) -> list[str]:
    names = [] if text == NONE else [name.strip() for name in text.split(",")]
    clients_for(["any"], clients, names)
    return names


def _free(text: str) -> Path:
    require_free(Path(text), "another")
    return Path(text)
