"""``atlas export``: a trained model as a folder that stock tools load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from atlas_cli.cli._arguments import Client, Group, Json, Round, Run

if TYPE_CHECKING:
    from atlas_cli.inference.export.exported import Exported

SECTION = "Use a trained model"
EXAMPLES = (
    "atlas export runs/20260131-120000_quickstart_0 --to spam-model --group spam",
    "atlas export runs/20260131-120000_quickstart_0 --to adapter --client phone-1 --format peft",
)


def command(
    run: Run,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A folder that is new or empty.")],
    group: Group = None,
    client: Client = None,
    round_: Round = None,
    form: Annotated[
        Literal["merged", "peft"],
        typer.Option("--format", help="A whole model with the adapters in its weights, or an adapter for PEFT."),
    ] = "merged",
    as_json: Json = False,
) -> None:
    """Write a trained model to a folder that transformers, PEFT or sentence-transformers load without atlas.

    The folder has the tokenizer, the classes and a model card with the code that loads it. Before it is there, its
    logits are compared with the run's. Heads that read the mean over tokens, which no class of transformers has, are
    written for sentence-transformers. Files are safetensors, JSON and Markdown; GGUF is not written.
    """
    from atlas_cli.inference.adapter_folders import choose_owner
    from atlas_cli.inference.round_choice import chosen_round
    from atlas_cli.reports.terminal import Terminal, busy
    from atlas_cli.runs.directory import open_run
    from atlas_cli.runs.resumable import config_of

    with busy(f"exporting from {run}"):
        from atlas_cli.inference.export.to_folder import export, new_folder
        from atlas_cli.inference.loaded_model import open_model

        new_folder(to)  # before a model is loaded
        source = open_run(run)
        number = chosen_round(source, choose_owner(config_of(source), group, client), round_)
        loaded = open_model(run, group=group, client=client, round_number=number, device="cpu")
        found = export(loaded, to, form)
    record = _record(found, loaded.owner.name, loaded.round)
    if as_json:
        typer.echo(json.dumps(record, indent=2))
        return
    console = Terminal()
    console.say(f"exported {loaded.owner} after round {loaded.round} to {to}, for {_reader(found)}")
    if found.reason:
        console.say(f"note: no class of transformers has this head, since {found.reason}")
    if found.agreement is None:
        console.say("note: logits were not compared with the run's: the package peft is not installed")
    else:
        same = found.agreement
        whose = "the run's" if found.quantized is None else "those of the run's adapters on this base"
        console.say(f"logits differ by {same.difference:.1e} from {whose}, of up to {same.largest:.3g}")
    if found.quantized is not None:
        console.say(
            "note: the run computed with quantised weights, and these are the base's own: its logits differ by up to "
            f"{found.quantized.difference:.2g}, of up to {found.quantized.largest:.3g}"
        )
    console.say(f"next: the code that loads it is in {to / 'README.md'}")


def _reader(found: Exported) -> str:
    if found.loading.tool == "sentence-transformers":
        return "sentence-transformers"
    kind = "PEFT" if found.form == "peft" else "transformers"
    behind = " and the head beside it" if found.loading.tool == "transformers and the head" else ""
    return f"{kind} ({found.loading.auto}){behind}"


def _record(found: Exported, owner: str, number: int) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "folder": str(found.folder),
        "format": found.form,
        "owner": owner,
        "round": number,
        "loads_with": found.loading.tool,
        "class": found.loading.auto,
        "no_stock_class": found.reason or None,
        "agreement": asdict(found.agreement) if found.agreement else None,
        "quantized": asdict(found.quantized) if found.quantized else None,
    }
