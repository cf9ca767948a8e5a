"""``atlas verify``: proof that the split computes what the unsplit model computes."""

from __future__ import annotations

import json

import typer

from atlas_cli.cli._arguments import ConfigFile, Json, Overrides

SECTION = "Plan and check"
EXAMPLES = ("atlas verify quickstart",)


def command(
    file: ConfigFile,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Compare loss and every gradient through the split with the unsplit model, on FILE's data with padding.

    One line a task group, split layer and dtype of clients; exit code 1 when a difference is above tolerance (1e-6 in
    float32). `atlas train` does the same before it starts.
    """
    from atlas_cli.config.load import load_config, locating
    from atlas_cli.errors import ConfigError
    from atlas_cli.experiment.split_check import before_codecs, require_verified
    from atlas_cli.experiment.split_proof import verify_split
    from atlas_cli.federation.build import build
    from atlas_cli.planning.plan import cuts_text
    from atlas_cli.reports.terminal import Terminal, busy

    loaded = load_config(file, overrides or [])
    with locating(loaded), busy(f"comparing the split of {file} with the unsplit model"):
        if loaded.config.mode != "split-federated":
            raise ConfigError("has no split to verify; use split-federated", key="mode")
        federation = build(loaded.config)
        checks = verify_split(federation)
    if as_json:
        typer.echo(json.dumps([check.record() for check in checks], indent=2))
    else:
        plan = federation.plan
        where = f"cut after layer {cuts_text(plan)} of {plan.n_layers}"
        console = Terminal()
        console.say(f"{loaded.config.model.name} {where}, against the unsplit model")
        for check in checks:
            console.say(check.sentence())
        for note in before_codecs(loaded.config):
            console.say(f"note: {note}")
    require_verified(checks)
