"""``atlas memory-report``: who held how many bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path | None, typer.Argument(help="Run directory; default: the newest under runs/.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print memory.json instead of a table.")] = False,
) -> None:
    """Show the memory of every client and the server of a run, beside full fine-tuning and unsplit LoRA."""
    from rich.console import Console

    from atlas_cli.reports.memory import memory_table
    from atlas_cli.runs.directory import newest_run, open_run

    directory = newest_run() if run is None else open_run(run)
    memory = directory.read_json("memory.json")
    if as_json:
        typer.echo(json.dumps(memory, indent=2))
        return
    console = Console()
    console.print(str(directory.path), markup=False, highlight=False, soft_wrap=True)
    console.print(memory_table(memory))
