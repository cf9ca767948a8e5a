"""``atlas split-point``: where to cut a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from atlas_cli.planning.devices.devices import Device


def command(
    model: Annotated[
        str, typer.Argument(help="Known architecture (gpt2, bert, llama-3-8b), packaged name, folder or hub id.")
    ],
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Device of the client (atlas devices), with its link.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory of the client, e.g. '2 GiB'; overrides the device's.")
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Device of the server; its memory is a limit, too. Wants --device or --memory."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Config whose devices: --device and --server may name, too.")
    ] = None,
    leakage: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help='JSON, what an attack recovers: {"layer": {"1": 0.99}, "attack", "source"}.'),
    ] = None,
    max_leakage: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Take no layer that leaks more (0 to 1); see --leakage."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples of a step.")] = 8,
    max_length: Annotated[int, typer.Option(min=2, help="Tokens of an example, padding included.")] = 128,
    rank: Annotated[int, typer.Option(min=1, help="LoRA rank of every client layer.")] = 8,
    targets: Annotated[
        str, typer.Option(metavar="NAMES", help="Linear layers that get adapters, e.g. q_proj,v_proj.")
    ] = "auto",
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Of the frozen weights and the activations.")
    ] = "float32",
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Run blocks again in the backward instead of keeping activations.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what each split layer of MODEL costs a client, and choose one: the number of blocks that a client keeps.

    Without --device or --memory the choice is the middle of the model. With one it is the deepest layer that fits;
    where none does, the exit code is 5 and the error says what would. No weights are loaded.
    Example: atlas split-point gpt2 --device phone-2gib --batch-size 4
    """
    from atlas_cli.cli._imports import without_collecting

    with without_collecting():
        from atlas_cli.cli._tables.split_points import split_notes, split_record, split_table
        from atlas_cli.errors import ConfigError
        from atlas_cli.planning.cuts.choice import choose_split
        from atlas_cli.planning.cuts.leakage import read_leakage
        from atlas_cli.planning.cuts.table import Setting
        from atlas_cli.planning.devices.devices import find_device

    if config is not None and device is None and server is None:
        raise ConfigError("its devices are for --device and --server; give one of them", key="--config")
    known = _devices(config) if config is not None else {}
    where = str(config) if config is not None else None

    def named(name: str, key: str) -> Device:
        return find_device(name, known, key=key, where=where)

    client = _client(named(device, "--device") if device is not None else None, memory)
    if server is not None and client is None:
        raise ConfigError("a server serves a client: give --device or --memory, too", key="--server")
    wanted = tuple(name.strip() for name in targets.split(",") if name.strip())
    names: Literal["auto"] | tuple[str, ...] = "auto" if wanted == ("auto",) else wanted
    setting = Setting(batch_size, max_length, rank, names, dtype, checkpointing)
    choice = choose_split(
        model,
        setting,
        client,
        named(server, "--server") if server is not None else None,
        leakage=read_leakage(leakage) if leakage is not None else None,
        max_leakage=max_leakage,
    )
    if as_json:
        typer.echo(json.dumps(split_record(choice), indent=2))
    else:
        from atlas_cli.reports.terminal import Terminal

        console = Terminal()
        console.print(split_table(choice, console.width))
        for note in split_notes(choice):
            console.say(note, style="italic")
        if choice.layer is not None:
            of = f"split layer {choice.layer} of {len(choice.rows)}"
            label = f"{of} (default): {choice.reason}" if choice.device is None else f"{of}: {choice.reason}"
            console.say(label)
    choice.require()


def _devices(config: Path) -> dict[str, Device]:
    from atlas_cli.config.load import load_config, locating
    from atlas_cli.planning.devices.devices import configured_devices

    loaded = load_config(config)
    with locating(loaded):
        return configured_devices(loaded.config)


def _client(device: Device | None, memory: str | None) -> Device | None:
    from atlas_cli.errors import ConfigError
    from atlas_cli.planning.devices.devices import Device
    from atlas_cli.units import parse_bytes

    if memory is None:
        return device
    try:
        size = parse_bytes(memory)
    except ValueError as error:
        raise ConfigError(str(error), key="--memory") from None
    if device is None:
        return Device("a client", memory=size, source="--memory")
    return replace(device, memory=size, source=f"{device.source}; memory as asked")
