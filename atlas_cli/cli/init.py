"""``atlas init``: a config to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[str, typer.Argument(help="Packaged name (atlas models), hub id, local folder or GGUF file.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write to this file instead of the terminal.")
    ] = None,
) -> None:
    """Print a commented config for a model.

    Example: atlas init minilm --out experiment.yaml
    """
    from atlas_cli.config.template import starting_config
    from atlas_cli.errors import ConfigError, OutputError

    if out is None:
        typer.echo(starting_config(model), nl=False)
        return
    text = starting_config(model, str(out))
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError("exists already and is not overwritten; choose another --out", where=str(out)) from None
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}") from None
    typer.echo(f"wrote {out}; next: atlas validate {out}")
