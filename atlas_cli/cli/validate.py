"""``atlas validate``: all checks of a config and its plan, without loading weights and without writing anything."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atlas_cli.cli._arguments import ConfigFile, Json, LedgerFile, Overrides
from atlas_cli.printable import as_typed

if TYPE_CHECKING:
    from pathlib import Path

    from atlas_cli.data.prepare import PreparedGroup
    from atlas_cli.planning.plan import ClientPlan, Plan

SECTION = "Plan and check"
EXAMPLES = (
    "atlas validate quickstart",
    "atlas validate quickstart model.split_layer=4 --no-data",
)
ROWS = 100  # of the table: of more clients, those alike are a row


def command(
    file: ConfigFile,
    overrides: Overrides = None,
    data: Annotated[bool, typer.Option("--data/--no-data", help="Read and check the data too.")] = True,
    ledger: LedgerFile = None,
    as_json: Json = False,
) -> None:
    """Check FILE against its model's shapes and its data, and print the plan.

    Nothing is written but downloads into the cache. A plan needs no weights: the model is built on the meta device.
    """
    from atlas_cli.cycle_collection import without_collection

    with without_collection():  # what is made of many clients is gone before a search for cycles would go over it
        _validate(file, overrides or [], data, ledger, as_json)


def _validate(file: Path, overrides: list[str], data: bool, ledger: Path | None, as_json: bool) -> None:
    from atlas_cli.cli._checked import checked
    from atlas_cli.config.load import load_config, locating
    from atlas_cli.data.prepare import class_counts
    from atlas_cli.reports.terminal import Terminal, busy

    loaded = load_config(file, overrides)
    console = Terminal()
    with locating(loaded), busy(f"checking {file}"):
        plan, prepared, notes = checked(loaded.config, data, ledger)
    examples = {client: count for group in prepared.values() for client, count in group.examples.items()}
    if as_json:
        typer.echo(json.dumps(_record(plan, prepared, notes, examples), indent=2))
        return
    for line in _facts(plan):
        console.say(line)
    console.print(_table(plan, examples))
    for note in notes:
        console.say(f"note: {note}")
    for name, group in prepared.items():
        if group.data.classes:
            console.say(f"{name}: {len(group.data.classes)} classes: {class_counts(group)}")
        for note in group.notes:
            console.say(f"note: {name}: {note}")
    found, follows = ("valid", "train") if data else ("valid as far as is seen without its data", "validate")
    console.say(f"{file} is {found}; next: atlas {follows} {as_typed(str(file), *overrides)}")


def _record(
    plan: Plan, prepared: dict[str, PreparedGroup], notes: list[str], examples: dict[str, int]
) -> dict[str, Any]:
    """For ``--json``: the model, what each client gets, and notes; sizes in bytes."""
    return {
        "model": {
            "name": plan.config.model.name,
            "model_type": plan.hf_config.model_type,
            "layers": plan.n_layers,
            "hidden_size": plan.hidden_size,
            "weights": plan.init,
            "parameters": plan.parameters,
        },
        "mode": plan.config.mode,
        "clients": [
            {
                "client": client.name,
                "task_group": client.task_group,
                "split_layer": client.cut,
                "dtype": client.dtype,
                "quantization": client.format.quantization,
                "embedding": client.format.embedding,
                "learns": client.learns,
                "ranks": "auto" if _waits_for_rank(plan, client) else client.ranks,
                "adapter_parameters": _adapter_parameters(plan, client),
                "bytes_up_a_step": _bytes_up(plan, client),
                "training_examples": examples.get(client.name),
            }
            for client in plan.clients
        ],
        "task_groups": {
            name: {"classes": list(group.data.classes), "notes": list(group.notes)} for name, group in prepared.items()
        },
        "notes": notes,
    }


def _facts(plan: Plan) -> list[str]:
    from atlas_cli.planning.plan import cuts_text

    n = plan.parameters
    upper = plan.adapter_parameters(plan.upper_ranks)
    training, mode = plan.config.training, plan.config.mode
    model = (
        f"model {plan.config.model.name} ({plan.hf_config.model_type}), {plan.n_layers} layers of width "
        f"{plan.hidden_size}, weights {plan.init}"
    )
    if mode != "split-federated":
        holder = "a learner for all clients of a task group" if mode == "centralized" else "every client"
        return [
            model,
            f"mode {mode}, without a split: {holder} holds the whole model of {n['model']:,} parameters",
            f"it trains its head and adapters, {upper:,} parameters of them from layer {cuts_text(plan)} on",
        ]
    head = "" if training.labels == "client" else "head and "
    return [
        model,
        f"cut after layer {cuts_text(plan)}: client half {n['client half']:,} parameters, "
        f"server half {n['server half']:,}, whole {n['model']:,}",
        f"server trains, for each task group: {head}{upper:,} adapter parameters",
    ]


def _table(plan: Plan, examples: dict[str, int]) -> Any:
    from atlas_cli.reports.tables import plan_table

    alike: dict[Any, list[ClientPlan]] = {}
    few = len(plan.clients) <= ROWS
    for client in plan.clients if few else plan.kinds:
        kind = client.task_group, client.cut, _waits_for_rank(plan, client), client.format, tuple(client.ranks.items())
        alike.setdefault(client.name if few else kind, []).append(client)
    names_of = {spec.key: plan.config.names_of(spec) for spec in plan.config.client_kinds()} if examples else {}
    rows = []
    for client, *more in alike.values():
        auto = _waits_for_rank(plan, client)
        others = len(more) if few else sum(plan.config.entry_of(c.key).count for c in (client, *more)) - 1
        names = [client.name] if few else [name for c in (client, *more) for name in names_of.get(c.key, ())]
        ranks = sorted(set(client.ranks.values()))
        rows.append(
            (
                client.name if not others else f"{client.name} and {others:,} alike",
                client.task_group,
                client.cut,
                "auto" if auto else _span(ranks),
                _adapter_parameters(plan, client),
                _bytes_up(plan, client),
                _range([examples[name] for name in names if name in examples]),
            )
        )
    return plan_table(rows)


def _span(ranks: list[int]) -> str:
    """Ranks in order, in words; a frozen client has none."""
    if not ranks:
        return "frozen"
    return str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"


def _waits_for_rank(plan: Plan, client: ClientPlan) -> bool:
    return plan.config.entry_of(client.key).rank == "auto"


def _adapter_parameters(plan: Plan, client: ClientPlan) -> int:
    split = plan.config.mode == "split-federated"
    return plan.adapter_parameters(client.ranks if split else {**client.ranks, **plan.above(client.cut)})


def _bytes_up(plan: Plan, client: ClientPlan) -> int:
    """Of the activations of a full batch at the longest length."""
    training = plan.config.training
    if plan.config.mode != "split-federated":
        return 0
    return plan.codecs(client).payload_bytes("activations", training.batch_size, training.max_length)


def _range(counts: list[int]) -> str | None:
    if not counts:
        return None
    least, most = min(counts), max(counts)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
