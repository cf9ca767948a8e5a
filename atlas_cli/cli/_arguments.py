"""Arguments that several commands share."""

from __future__ import annotations

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
