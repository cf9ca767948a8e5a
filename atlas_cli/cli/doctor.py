"""``atlas doctor``: whether this installation and this machine are fit for runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import typer

from atlas_cli.cli._arguments import Json

SECTION = "Set up"
EXAMPLES = (
    "atlas doctor",
    "atlas doctor --json",
)


def command(as_json: Json = False) -> None:
    """Show versions, devices, threads, free memory and disk, and missing extras with the command that installs them.

    Also says what would be slow or fail here. The exit code is 1 if something prevents every run, else 0.
    """
    from atlas_cli.cli import _installation

    facts: dict[str, Any] = _installation.installation()
    facts["warnings"] = []
    if not facts["unfit"]:  # else imports would fail
        facts |= _installation.computing() | {"places": _installation.places()}
        facts["warnings"] = list(_installation.warnings(facts))
    facts["problems"] = list(_installation.problems(facts))
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        _show(facts)
    if facts["problems"]:
        raise typer.Exit(1)


def _show(facts: dict[str, Any]) -> None:
    from rich.table import Column, Table

    from atlas_cli.reports.terminal import Terminal

    table = Table(Column(no_wrap=True), Column(overflow="fold"), box=None, show_header=False)
    for name, text in _lines(facts):
        table.add_row(name, text)
    console = Terminal()
    console.print(table)
    for name, extra in facts["extras"].items():
        if extra["missing"]:
            console.say(f"extra {name} is not installed ({extra['what']}): {extra['install']}")
    for warning in facts["warnings"]:
        console.say(f"warning: {warning}")
    for problem in facts["problems"]:
        console.say(f"problem: {problem}")
    console.say("next: " + ("mend the problems above" if facts["problems"] else "atlas train offline"))


def _lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "atlas", f"{facts['atlas']['version'] or '(not installed)'} in {facts['atlas']['folder']}"
    yield "packages", ", ".join(f"{name} {found or 'missing'}" for name, found in facts["versions"].items())
    if facts["unfit"]:
        return
    machine = facts["platform"]
    yield "system", f"Python {facts['python']}, {machine['os']}, {machine['cpu'] or machine['machine']}"
    for device in facts["devices"]:
        size = f", {_gib(device['memory'])}" if "memory" in device else ""
        yield "device", device["name"] + (f" ({device['model']}{size})" if "model" in device else "")
    cores = f"{facts['threads']} of {machine['usable_cores']} usable cores"
    yield "threads", cores + (f" (OMP_NUM_THREADS={facts['OMP_NUM_THREADS']})" if facts["OMP_NUM_THREADS"] else "")
    yield "free memory", "unknown" if facts["free_memory"] is None else _gib(facts["free_memory"])
    for name, place in facts["places"].items():
        yield f"{name} in", f"{place['folder']}, {_gib(place['free'])} free"
    yield (
        "hub",
        "can be reached" if facts["hub_reachable"] else "cannot be reached; local and packaged models can be used",
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
