"""``atlas split-point``: where to cut a model."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    model: Annotated[
        str, typer.Argument(help="Known architecture (gpt2, bert, llama), packaged name, folder or hub id.")
    ],
) -> None:
    """Print the default split layer of MODEL, the middle: the number of blocks that a client keeps.

    Known architectures are answered offline and without weights.
    """
    from atlas_cli.planning.split_point import get_split_point

    typer.echo(get_split_point(model))
