"""``atlas config``: what a config says when all is resolved, and what it may say."""

from __future__ import annotations

import json
from typing import Any

import typer

from atlas_cli.cli._arguments import ConfigFile, Json, Overrides
from atlas_cli.cli._help import Command, Group

SECTION = "Set up"

SHOW = ("atlas config show quickstart", "atlas config show quickstart training.rounds=3 --json")
SCHEMA = ("atlas config schema > experiment.schema.json",)

app = typer.Typer(cls=Group, help="Show a resolved config, or the schema of all keys.", no_args_is_help=True)


@app.command(cls=Command, epilog="\n".join(SHOW))
def show(file: ConfigFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Print the resolved config: all keys with defaults, and where each changed value was set.

    Optional keys that have no value are left out; `atlas config schema` lists them.
    """
    from atlas_cli.config.dump import show_config
    from atlas_cli.config.load import load_config

    loaded = load_config(file, overrides or [])
    if as_json:
        typer.echo(json.dumps(loaded.config.model_dump(mode="json"), indent=2))
    else:
        typer.echo(show_config(loaded), nl=False)


@app.command(cls=Command, epilog="\n".join(SCHEMA))
def schema() -> None:
    """Print the JSON schema of a config, for editors."""
    typer.echo(json.dumps(experiment_schema(), indent=2))


def experiment_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of the experiment config; plug-in names are listed."""
    from atlas_cli import discovery
    from atlas_cli.config.schema.experiment import ExperimentConfig

    schema = ExperimentConfig.model_json_schema()
    sections = schema["$defs"]
    sections["TaskGroupConfig"]["properties"]["task"]["enum"] = list(discovery.names("tasks"))
    sections["AggregationConfig"]["properties"]["method"]["enum"] = list(discovery.names("aggregation.methods"))
    corpus = next(kind for kind in sections["DataConfig"]["properties"]["corpus"]["anyOf"] if kind["type"] == "string")
    corpus["enum"] = list(discovery.names("data.corpora"))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
