"""``atlas ranks``: the rank of every layer of every client, and what they come to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atlas_cli.cli._arguments import ConfigFile, Json, Overrides
from atlas_cli.printable import as_typed

if TYPE_CHECKING:
    from atlas_cli.config.schema.experiment import ExperimentConfig
    from atlas_cli.experiment.allocation.auto_ranks import ClientRanks, RankPlan

SECTION = "Plan and check"
EXAMPLES = (
    "atlas ranks experiment.yaml --write resolved.yaml",
    "atlas ranks experiment.yaml --uniform",
)
COLUMNS = 6
OTHER = "another --write"


def command(
    file: ConfigFile,
    overrides: Overrides = None,
    write: Annotated[
        Path | None, typer.Option(metavar="NEW", help="Write the config with these ranks to a new file.")
    ] = None,
    uniform: Annotated[bool, typer.Option("--uniform", help="Control: the largest equal rank that fits.")] = False,
    random: Annotated[bool, typer.Option("--random", help="Control: random ranks of equal budget.")] = False,
    as_json: Json = False,
) -> None:
    """Show the ranks that FILE gives its clients; `rank: auto` is fitted to each client's device.

    Layers get rank by their importance: the gradient of lora_B on the client's own data (allocation.importance), for
    which weights and data are loaded. The controls need neither.
    """
    import json

    from atlas_cli.config.load import load_config, locating
    from atlas_cli.errors import ConfigError
    from atlas_cli.experiment.allocation.auto_ranks import plan_ranks
    from atlas_cli.planning.memory_assumptions import beside_ranks, unpredicted
    from atlas_cli.reports.terminal import busy
    from atlas_cli.storage.new_file import require_free

    if uniform and random:
        raise ConfigError("--uniform and --random exclude each other")
    if write is not None:
        require_free(write, OTHER)
    loaded = load_config(file, overrides or [])
    with locating(loaded), busy(f"fitting ranks of {file}"):
        planned = plan_ranks(loaded.config, "uniform" if uniform else "random" if random else None)
    notes = [*unpredicted(loaded.config), *beside_ranks(loaded.config)]
    if write is not None:
        _write(planned.config, write, file)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "importance": planned.method,
                    "clients": [_record(c) for c in planned.clients],
                    "notes": notes,
                },
                indent=2,
            )
        )
        return
    from atlas_cli.reports.terminal import Terminal

    console = Terminal()
    for i in range(0, len(planned.clients), COLUMNS):
        console.print(_table(planned, planned.clients[i : i + COLUMNS]))
    for line in _reasons(planned):
        console.say(line)
    for note in notes:
        console.say(f"note: {note}")
    if write is not None:
        console.say(f"wrote {write}; next: atlas train {as_typed(str(write))}")


def _table(planned: RankPlan, clients: Sequence[ClientRanks]) -> Any:
    from rich.table import Table

    from atlas_cli.reports.fitted import layout
    from atlas_cli.units import format_bytes_mb, format_bytes_mib

    table = Table(
        title="Rank by layer",
        caption="predicted: a full batch of the longest examples\nMiB: 1,048,576 bytes; MB: 1,000,000 bytes",
        **layout(),
    )
    table.add_column("layer", no_wrap=True)
    for client in clients:
        table.add_column(client.name, justify="right", overflow="fold")
    layers = sorted({layer for client in planned.clients for layer in client.ranks})
    for layer in layers:
        ranks = (client.ranks.get(layer) for client in clients)
        table.add_row(str(layer), *("-" if r is None else str(r) for r in ranks), end_section=layer == layers[-1])

    def mib(size: float | None) -> str:
        return "-" if size is None else format_bytes_mib(int(size)).removesuffix(" MiB")

    def mb(size: float | None) -> str:
        return "-" if size is None else format_bytes_mb(int(size)).removesuffix(" MB")

    rows: list[tuple[str, Callable[[ClientRanks], str]]] = [
        ("device", lambda c: "-" if c.device is None else c.device.name),
        ("ranks from", lambda c: planned.method if c.allocation is not None else "config"),
        ("adapter parameters", lambda c: f"{c.adapter_parameters:,}"),
        ("predicted peak, MiB", lambda c: mib(c.memory.peak)),
        ("memory, MiB", lambda c: mib(c.device.memory if c.device is not None else None)),
        ("uplink a round, MB", lambda c: mb(c.uplink)),
    ]
    if any(_limit(client, "uplink") is not None for client in planned.clients):
        rows.append(("uplink budget, MB", lambda c: mb(_limit(c, "uplink"))))
    for name, cell in rows:
        table.add_row(name, *(cell(client) for client in clients))
    return table


def _reasons(planned: RankPlan) -> Iterator[str]:
    """Why ranks are not larger, a line for all clients that have the same reason."""
    found: dict[str, list[str]] = {}
    for client in planned.clients:
        if client.allocation is not None:
            stop = client.allocation.stopped_at
            why = "every layer has the largest rank allowed" if stop is None else f"limited by {stop.resource}"
            found.setdefault(why, []).append(client.name)
    yield from (f"{', '.join(names)}: {why}" for why, names in found.items())


def _limit(client: ClientRanks, resource: str) -> float | None:
    return client.allocation.budgets.get(resource) if client.allocation is not None else None


def _record(client: ClientRanks) -> dict[str, Any]:
    from dataclasses import asdict

    allocation = client.allocation
    return {
        "client": client.name,
        "device": None if client.device is None else client.device.name,
        "ranks": client.ranks,
        "importance": client.importance,
        "adapter_parameters": client.adapter_parameters,
        "memory": {**asdict(client.memory), "peak": client.memory.peak},
        "memory_budget": None if client.device is None else client.device.memory,
        "uplink_bytes_a_round": client.uplink,
        "uplink_budget": _limit(client, "uplink"),
        "stopped_at": None if allocation is None or allocation.stopped_at is None else asdict(allocation.stopped_at),
    }


def _write(config: ExperimentConfig, path: Path, source: Path) -> None:
    from atlas_cli.config.dump import dump_config
    from atlas_cli.storage.new_file import write_new

    command = f"atlas train {as_typed(str(path))}"
    text = f"# {source} with the ranks that atlas ranks gave it\n#\n#   {command}\n{dump_config(config)}"
    write_new(path, text, OTHER)
