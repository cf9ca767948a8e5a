"""``atlas devices``: built-in device profiles, and a measurement of this machine."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from atlas_cli.cli._arguments import Json

SECTION = "Set up"
EXAMPLES = (
    "atlas devices",
    "atlas devices --this-machine",
)


def command(
    this_machine: Annotated[
        bool, typer.Option("--this-machine", help="Measure this machine and print a profile for devices: in a config.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads to measure with; default: torch's own choice.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the device profiles that a config or `atlas split-point --device` may name, and where they are from.

    With --this-machine: float32 matrix products per second and free memory, as YAML to paste. Links are not measured.
    """
    from atlas_cli.errors import ConfigError
    from atlas_cli.planning.devices.devices import BUILT_IN, measure_this_machine

    if this_machine:
        device = measure_this_machine(threads)
        typer.echo(json.dumps(device.record(), indent=2) if as_json else _yaml(device.texts(), device.source))
        return
    if threads is not None:
        raise ConfigError("goes with --this-machine", key="--threads")
    if as_json:
        typer.echo(json.dumps([device.record() for device in BUILT_IN.values()], indent=2))
        return
    from atlas_cli.reports.fitted import Column, fitted_table
    from atlas_cli.reports.terminal import Terminal

    columns = [Column("device", list(BUILT_IN))]
    for heading, spare in {"memory": 0, "compute": 0, "uplink": 1, "downlink": 2, "latency": 3, "watts": 1}.items():
        texts = [device.texts().get(heading, "-") for device in BUILT_IN.values()]
        columns.append(Column(heading, texts, right=True, spare=spare))
    console = Terminal()
    console.print(
        fitted_table(columns, console.width, caption="memory: what training may use; compute: sustained, float32")
    )
    for device in BUILT_IN.values():
        console.say(f"{device.name}: {device.source}")


def _yaml(texts: dict[str, str], source: str) -> str:
    lines = [f"# {source}", "devices:", "  this-machine:"]
    lines += [f"    {figure}: {text}" for figure, text in texts.items()]
    lines += ["    # not measured: uplink: 10 Mbit/s, downlink: 50 Mbit/s, latency: 40 ms, watts: 30 W"]
    return "\n".join(lines)
