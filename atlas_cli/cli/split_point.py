"""``atlas split-point``: where to cut a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from atlas_cli.cli._arguments import Json, model_named_as
from atlas_cli.models.frozen.weight_format import Quantization

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from atlas_cli.planning.cuts.choice import SplitChoice
    from atlas_cli.planning.devices.devices import Device

SECTION = "Plan and check"
EXAMPLES = (
    "atlas split-point gpt2",
    "atlas split-point llama-3-8b --device laptop-8gib",
    "atlas split-point qwen2.5-0.5b --device phone-2gib --dtype float32",
    "atlas split-point llama-3-8b --memory '2 GiB' --quantization nf4 --embedding rows --checkpointing",
    "atlas split-point gpt2 --memory '512 MiB' --batch-size 4 --max-length 64",
    "atlas split-point minilm --device phone-6gib --codec delta --text-tokens 100000",
)


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Known architecture (gpt2, bert, llama-3-8b), packaged name, folder or hub id."
        ),
    ],
    device: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="What it must fit",
            metavar="NAME",
            help="Device of the client (atlas devices), with its link.",
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="What it must fit",
            metavar="SIZE",
            help="Memory of the client, e.g. '2 GiB'; overrides the device's.",
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="What it must fit",
            metavar="NAME",
            help="Device of the server; its memory is a limit, too. Wants --device or --memory.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel="What it must fit",
            metavar="FILE",
            help="Config whose devices: --device and --server may name, too.",
        ),
    ] = None,
    leakage: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel="What it must fit",
            metavar="FILE",
            help='JSON, what an attack recovers: {"layer": {"1": 0.99}, "attack", "source"}.',
        ),
    ] = None,
    max_leakage: Annotated[
        float | None,
        typer.Option(
            rich_help_panel="What it must fit",
            min=0,
            max=1,
            help="Take no layer that leaks more (0 to 1); see --leakage.",
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(rich_help_panel="The step that is planned", min=1, help="Examples of a step.")
    ] = 8,
    max_length: Annotated[
        int | None,
        typer.Option(
            rich_help_panel="The step that is planned",
            min=2,
            help="Tokens of an example, padding included; default: 128, or all positions of a shorter model.",
            show_default=False,
        ),
    ] = None,
    rank: Annotated[
        int, typer.Option(rich_help_panel="The step that is planned", min=1, help="LoRA rank of every client layer.")
    ] = 8,
    targets: Annotated[
        str,
        typer.Option(
            rich_help_panel="The step that is planned",
            metavar="NAMES",
            help="Linear layers that get adapters, e.g. q_proj,v_proj.",
        ),
    ] = "auto",
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None,
        typer.Option(
            rich_help_panel="The step that is planned",
            help="Of the frozen weights and the activations; default: that of the published weights.",
            show_default=False,
        ),
    ] = None,
    quantization: Annotated[
        Quantization,
        typer.Option(
            rich_help_panel="The step that is planned", help="Of the client's blocks: their frozen linear layers."
        ),
    ] = "none",
    embedding: Annotated[
        Literal["table", "rows"],
        typer.Option(
            rich_help_panel="The step that is planned",
            help="What the client has of the token embedding in memory: the table, or --rows of it.",
        ),
    ] = "table",
    rows: Annotated[
        int | None,
        typer.Option(
            rich_help_panel="The step that is planned",
            min=1,
            help="Distinct tokens in the client's texts, for --embedding rows.  [default: 16384]",
            show_default=False,
        ),
    ] = None,
    learns: Annotated[
        Literal["backprop", "auxiliary", "zeroth-order", "frozen"],
        typer.Option(
            rich_help_panel="The step that is planned",
            help="How the client learns, as clients.NAME.learns of a config.",
        ),
    ] = "backprop",
    codec: Annotated[
        str,
        typer.Option(
            rich_help_panel="The step that is planned",
            metavar="NAME",
            help="Codec of activations and gradients, with its default options, as in wire of a config.",
        ),
    ] = "none",
    text_tokens: Annotated[
        int | None,
        typer.Option(
            rich_help_panel="The step that is planned",
            min=1,
            help="Tokens of all the client's texts, of which --codec delta keeps what was sent and received last.",
            show_default=False,
        ),
    ] = None,
    checkpointing: Annotated[
        bool,
        typer.Option(
            "--checkpointing",
            rich_help_panel="The step that is planned",
            help="Run blocks again in the backward instead of keeping activations.",
        ),
    ] = False,
    family: Annotated[
        Literal["known", "auto"],
        typer.Option(
            rich_help_panel="The step that is planned", help="auto: find the blocks of a model of no known family."
        ),
    ] = "known",
    as_json: Json = False,
) -> None:
    """Show what each split layer of MODEL costs a client, and choose one: the number of blocks that a client keeps.

    Without --device or --memory the choice is the middle of the model. With one it is the deepest layer that fits;
    where none does, the exit code is 5 and the error says what would. No weights are loaded.
    """
    from atlas_cli.cli._imports import without_collecting
    from atlas_cli.errors import ConfigError

    with without_collecting():
        from atlas_cli.planning.cuts.choice import choose_split, default_tokens
        from atlas_cli.planning.cuts.coding import with_texts
        from atlas_cli.planning.cuts.leakage import read_leakage
        from atlas_cli.planning.cuts.table import Setting, config_of
        from atlas_cli.planning.published_dtype import planned_dtype
        from atlas_cli.reports.terminal import busy

    if rows is not None and embedding == "table":
        raise ConfigError("rows are counted for --embedding rows; add it, or leave --rows out", key="--rows")
    if checkpointing and learns in ("zeroth-order", "frozen"):
        raise ConfigError(f"--learns {learns} has no backward, which it is for; leave it out", key="--checkpointing")
    if learns == "zeroth-order" and dtype == "bfloat16":
        raise ConfigError("--learns zeroth-order takes differences that it rounds away; use float32", key="--dtype")
    client, serving = _devices(device, memory, server, config)
    known = read_leakage(leakage) if leakage is not None else None
    with busy(f"tracing {model}"):
        with model_named_as("MODEL"):
            hf_config = config_of(model)
        if rows is not None and rows > hf_config.vocab_size:
            raise ConfigError(
                f"{rows:,} is above the {hf_config.vocab_size:,} rows of the token embedding; give at most that, or "
                "--embedding table",
                key="--rows",
            )
        tokens = default_tokens(hf_config, family) if max_length is None else max_length
        setting = Setting(
            batch=batch_size,
            tokens=tokens,
            rank=rank,
            targets=_target_names(targets),
            dtype=dtype or ("float32" if learns == "zeroth-order" else planned_dtype(hf_config)),
            quantization=quantization,
            embedding=embedding,
            rows=Setting.rows if rows is None else rows,
            checkpointing=checkpointing,
            family=family,
            learns=learns,
            codec=codec,
        )
        setting = with_texts(setting, text_tokens, int(hf_config.hidden_size))
        choice = choose_split(
            model, setting, client, serving, leakage=known, max_leakage=max_leakage, hf_config=hf_config
        )
    if max_length is None and tokens < Setting.tokens:
        typer.echo(f"note: examples of {tokens} tokens, as many as the model has positions (--max-length)", err=True)
    _show(choice, as_json)
    choice.require()
    if not as_json:
        _say_what_is_deeper(choice, hf_config)


def _devices(
    device: str | None, memory: str | None, server: str | None, config: Path | None
) -> tuple[Device | None, Device | None]:
    """The client's device with its memory, and the server's, where they were given."""
    from atlas_cli.errors import ConfigError
    from atlas_cli.planning.devices.devices import find_device

    if config is not None and device is None and server is None:
        raise ConfigError("its devices are for --device and --server; give one of them", key="--config")
    known = _configured_devices(config) if config is not None else {}
    where = str(config) if config is not None else None
    client = find_device(device, known, key="--device", where=where) if device is not None else None
    client = _with_memory(client, memory) if memory is not None else client
    if server is not None and client is None:
        raise ConfigError("a server serves a client: give --device or --memory, too", key="--server")
    return client, find_device(server, known, key="--server", where=where) if server is not None else None


def _target_names(targets: str) -> Literal["auto"] | tuple[str, ...]:
    names = tuple(name.strip() for name in targets.split(",") if name.strip())
    return "auto" if names == ("auto",) else names


def _show(choice: SplitChoice, as_json: bool) -> None:
    from atlas_cli.cli._tables.split_points import split_notes, split_record, split_table
    from atlas_cli.reports.terminal import Terminal

    if as_json:
        typer.echo(json.dumps(split_record(choice), indent=2))
        return
    console = Terminal()
    console.print(split_table(choice, console.width))
    for note in split_notes(choice):
        console.say(note, style="italic")
    if choice.layer is not None:
        of = f"split layer {choice.layer} of {len(choice.rows)}"
        console.say(f"{of} (default): {choice.reason}" if choice.device is None else f"{of}: {choice.reason}")


def _say_what_is_deeper(choice: SplitChoice, hf_config: PreTrainedConfig) -> None:
    from atlas_cli.planning.cuts.remedies import deeper
    from atlas_cli.planning.cuts.table import Shapes

    memory = choice.device.memory if choice.device is not None else None
    if memory is None or choice.layer in (None, len(choice.rows)):
        return
    found = deeper(Shapes(hf_config, choice.setting), memory)
    if found is not None and found[0] > (choice.layer or 0):
        typer.echo(f"next: with {found[1]} layer {found[0]} of {len(choice.rows)} fits")


def _configured_devices(config: Path) -> dict[str, Device]:
    from atlas_cli.config.load import load_config, locating
    from atlas_cli.planning.devices.devices import configured_devices

    loaded = load_config(config)
    with locating(loaded):
        return configured_devices(loaded.config)


def _with_memory(device: Device | None, memory: str) -> Device:
    from atlas_cli.errors import ConfigError
    from atlas_cli.planning.devices.devices import Device
    from atlas_cli.units import parse_bytes

    try:
        size = parse_bytes(memory)
    except ValueError as error:
        raise ConfigError(str(error), key="--memory") from None
    if device is None:
        return Device("a client", memory=size, source="--memory")
    return replace(device, memory=size, source=f"{device.source}; memory as asked")
