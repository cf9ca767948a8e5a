"""``atlas init``: a config to start from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atlas_cli.cli._arguments import model_named_as
from atlas_cli.printable import as_typed

if TYPE_CHECKING:
    from atlas_cli.cli._start import Wanted

OUT = Path("experiment.yaml")
SECTION = "Set up"
EXAMPLES = (
    "atlas init --example quickstart",
    "atlas init minilm --out experiment.yaml",
    "atlas init --data mails.csv --column label=kind --clients 6",
    "atlas init --data chats.jsonl --task instruction --model gpt2 --device phone-6gib --device laptop-8gib",
)


def command(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="Packaged name (atlas models), hub id, local folder or GGUF file.", show_default=False
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Train on this file: CSV, TSV, JSONL, JSON, Parquet, text or CoNLL."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="What to learn; default: what the columns of --data are for.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=COLUMN", help="Which column is which field of the task; once for each."),
    ] = None,
    clients: Annotated[int | None, typer.Option(min=1, metavar="N", help="How many clients; default: 4.")] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A device of clients (atlas devices); several share the clients."),
    ] = None,
    named: Annotated[str | None, typer.Option("--model", metavar="MODEL", help="As MODEL.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write to this file; default: the terminal, with --data experiment.yaml."),
    ] = None,
    example: Annotated[
        str | None, typer.Option(metavar="NAME", help="Copy this example and its data here instead.")
    ] = None,
    list_examples: Annotated[bool, typer.Option("--list", help="List the examples that come with atlas.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --list: print JSON.")] = False,
) -> None:
    """Write a commented config for a model or for your data; without any option, ask for what it needs.

    With --data the file is read as atlas train reads it, and the config is checked before it is written.
    """
    from atlas_cli.cli._start import Wanted
    from atlas_cli.errors import ConfigError

    if list_examples:
        _list(as_json)
        return
    if example is not None:
        _copy(example, out)
        return
    if model is not None and named is not None:
        raise ConfigError("gives the model a second time", key="--model")
    wanted = Wanted(data, task, _columns(column or []), clients, tuple(device or ()), model or named)
    if wanted == Wanted():
        if not sys.stdin.isatty():
            raise ConfigError(
                "give a model (atlas init minilm), --data FILE, or --example NAME (atlas init --list shows them); on a"
                " terminal atlas init asks"
            )
        from atlas_cli.cli._questions import ask

        wanted, out = ask(OUT)
    with model_named_as("--model" if named is not None else "MODEL"):
        _write(wanted, out)


def _columns(given: list[str]) -> dict[str, str]:
    from atlas_cli.errors import ConfigError

    pairs = [text.partition("=") for text in given]
    if wrong := [text for text, (field, _, column) in zip(given, pairs, strict=True) if not field or not column]:
        raise ConfigError(f"expected FIELD=COLUMN, e.g. text=body, got {wrong[0]!r}", key="--column")
    return {field: column for field, _, column in pairs}


def _list(as_json: bool) -> None:
    from rich.table import Column, Table

    from atlas_cli.config.examples import examples
    from atlas_cli.reports.terminal import Terminal

    known = examples().values()
    if as_json:
        typer.echo(json.dumps([{"name": e.name, "path": str(e.path), "says": e.says} for e in known], indent=2))
        return
    table = Table(Column("example", no_wrap=True), "what it shows", box=None)
    for each in known:
        table.add_row(each.name, each.says)
    console = Terminal()
    console.print(table)
    console.say("next: atlas train NAME, or atlas init --example NAME to copy one and change it")


def _copy(name: str, out: Path | None) -> None:
    from atlas_cli.config import examples
    from atlas_cli.config.copied_example import copy_example

    chosen = examples.example(name, key="--example")
    target = out or Path(chosen.path.name)
    written = copy_example(chosen, target)
    typer.echo(f"wrote {', '.join(map(str, written))}; next: atlas train {as_typed(str(target))}")


def _write(wanted: Wanted, out: Path | None) -> None:
    from atlas_cli.cli._start import following, start_with
    from atlas_cli.config.template import starting_config
    from atlas_cli.storage.new_file import require_free, write_new

    if out is None and wanted.data is not None:
        out = OUT
    if out is not None:
        require_free(out, "another --out")
    start = start_with(wanted, out or OUT)
    if start.init == "auto":
        typer.echo(f"note: weights of {start.model} cannot be reached now; they are random until they can be", err=True)
    text = starting_config(start, str(out or OUT))
    if wanted.data is not None:
        with following(start):
            _check(text, out or OUT)
    if out is None:
        typer.echo(text, nl=False)
        return
    for line in start.about:
        typer.echo(line)
    if start.guessed:
        typer.echo(start.guessed)
    write_new(out, text, "another --out")
    typer.echo(f"wrote {out}; next: atlas {'validate' if wanted.data is None else 'train'} {as_typed(str(out))}")


def _check(text: str, out: Path) -> None:
    """All checks of ``atlas validate``, before anything is written."""
    from atlas_cli.cli._checked import checked
    from atlas_cli.config.load import config_of_text
    from atlas_cli.errors import ConfigError

    try:
        checked(config_of_text(text, out).config)
    except ConfigError as error:
        raise ConfigError(error.message, key=error.key, where=f"{out} (not written)", others=error.others) from None
