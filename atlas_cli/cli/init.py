"""``atlas init``: a config to start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[
        str | None,
        typer.Argument(help="Packaged name (atlas models), hub id, local folder or GGUF file.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write to this file instead of the terminal.")
    ] = None,
    example: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Copy this example and its data here instead.", show_default=False),
    ] = None,
    list_examples: Annotated[bool, typer.Option("--list", help="List the examples that come with atlas.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --list: print JSON.")] = False,
) -> None:
    """Print a commented config for a model, or copy an example.

    Example: atlas init minilm --out experiment.yaml
    """
    from atlas_cli.errors import ConfigError

    if list_examples:
        _list(as_json)
    elif example is not None:
        _copy(example, out)
    elif model is not None:
        _write(model, out)
    else:
        raise ConfigError("give a model, e.g. atlas init minilm, or --example NAME (atlas init --list shows them)")


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
    typer.echo(f"wrote {', '.join(map(str, written))}; next: atlas train {target}")


def _write(model: str, out: Path | None) -> None:
    from atlas_cli.config.template import starting_config
    from atlas_cli.errors import ConfigError, OutputError

    if out is None:
        typer.echo(starting_config(model), nl=False)
        return
    text = starting_config(model, str(out))
    try:
        with out.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError("exists already and is not overwritten; choose another --out", where=str(out)) from None
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}") from None
    typer.echo(f"wrote {out}; next: atlas validate {out}")
