"""Arguments that several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text and tables.")]
ConfigFile = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="Experiment config (YAML), or the name of an example.", show_default=False),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Changes to the config, e.g. training.rounds=3 clients.phone-1.rank=4",
        show_default=False,
    ),
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)]
Group = Annotated[
    str | None,
    typer.Option("--group", metavar="NAME", help="The task group, or its part GROUP.CLUSTER."),
]
Client = Annotated[str | None, typer.Option("--client", metavar="NAME", help="Use the client's own model.")]
Round = Annotated[
    str | None,
    typer.Option("--round", metavar="N|best", help="The round whose model to use, if it is kept; default: the last."),
]
Device = Annotated[
    str | None,
    typer.Option("--device", metavar="NAME", help="Compute on cpu, cuda, cuda:1, mps or auto; default: as trained."),
]

LedgerFile = Annotated[
    Path | None,
    typer.Option(
        "--ledger",
        metavar="FILE",
        help="Privacy ledger (JSON): counts what earlier runs told of the same rows, and adds what this one tells.",
        show_default=False,
    ),
]


@contextmanager
def model_named_as(argument: str) -> Iterator[None]:
    """Name the argument in errors of the model, where a config would have its key."""
    from atlas_cli.errors import ConfigError, ResourceError

    try:
        yield
    except ConfigError as error:
        if error.key == "model.name":
            error.key = argument
        raise
    except ResourceError as error:
        message = str(error)
        if not message.startswith("model.name: "):
            raise
        named = ResourceError(f"{argument}: {message.removeprefix('model.name: ')}")
        for note in getattr(error, "__notes__", ()):
            named.add_note(note)
        raise named from None
