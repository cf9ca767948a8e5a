"""``atlas evaluate``: the trained models of a run, on a part of its data or on another file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from atlas_cli.cli._arguments import Client, Device, Group, Json, Round, Run
from atlas_cli.printable import as_typed

if TYPE_CHECKING:
    from atlas_cli.cli._tables.evaluation import Evaluation

SECTION = "Use a trained model"
EXAMPLES = (
    "atlas evaluate runs/20260131-120000_quickstart_0",
    "atlas evaluate runs/20260131-120000_quickstart_0 --group spam --data mails.csv --merged",
)


def command(
    run: Run,
    data: Annotated[
        str | None, typer.Option(metavar="FILE", help="Score on this file, read as the task group's own data is.")
    ] = None,
    split: Annotated[
        Literal["test", "validation", "local"] | None,
        typer.Option(
            help="Score on this part of the run's own data; default: test. local: the clients' own test parts."
        ),
    ] = None,
    group: Group = None,
    client: Client = None,
    round_: Round = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="Also compute in one piece, with adapters in the weights, and compare.")
    ] = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Score trained models of RUN: figures with intervals, by class, and which class was taken for which.

    Each example crosses the split as in training. Intervals are of 95 %: Wilson's of shares of examples, else from
    resampled examples. What a model made of each example goes to RUN/evaluation/, for `atlas compare`, with a picture.
    """
    from atlas_cli.errors import ConfigError
    from atlas_cli.inference.adapter_folders import choose_owner, groups_to_use
    from atlas_cli.reports.terminal import Terminal, busy
    from atlas_cli.runs.directory import open_run
    from atlas_cli.runs.resumable import config_of

    if data is not None and split is not None:
        raise ConfigError("--data and --split are both given: give one of the two")
    folder = open_run(run)
    if data is not None:  # a file is of one task group, so that none is scored before the classes of another do not fit
        choose_owner(config_of(folder), group, client)
    done = []
    console = Terminal(stderr=as_json)
    for name in groups_to_use(config_of(folder), group, client):
        with busy(f"evaluating {client or name} of {run}"):
            done.append(_evaluate(run, name, client, round_, data, split or "test", merged, device))
        if not as_json:
            if len(done) > 1:
                console.print()
            console.say(done[-1].title)
            for table in done[-1].tables(console.width):
                console.print(table)
            for line in done[-1].notes():
                console.say(line)
    if as_json:
        typer.echo(json.dumps({"run": str(run), "evaluations": [each.record() for each in done]}, indent=2))
        return
    quoted = as_typed(str(run))
    whose = f" --client {as_typed(client)}" if client else f" --group {as_typed(group)}" if group else ""
    if not whose and len(done) > 1:
        whose = " --group NAME"
    console.say(f"next: atlas predict {quoted}{whose} --input FILE --output FILE, or atlas compare {quoted} OTHER_RUN")


def _evaluate(
    run: Path,
    group: str | None,
    client: str | None,
    round_: str | None,
    data: str | None,
    split: Literal["test", "validation", "local"],
    merged: bool,
    device: str | None,
) -> Evaluation:
    from atlas_cli.cli._tables.evaluation import Evaluation
    from atlas_cli.errors import during
    from atlas_cli.inference.adapter_folders import choose_owner
    from atlas_cli.inference.loaded_model import open_model
    from atlas_cli.inference.merged import MergedEvaluator
    from atlas_cli.inference.recorded import compare, recorded
    from atlas_cli.inference.round_choice import chosen_round
    from atlas_cli.inference.scored_parts import part_of_file, part_of_run
    from atlas_cli.inference.scoring import score
    from atlas_cli.runs.directory import open_run
    from atlas_cli.runs.resumable import config_of

    folder = open_run(run)
    number = chosen_round(folder, choose_owner(config_of(folder), group, client), round_)
    loaded = open_model(run, group=group, client=client, round_number=number, device=device)
    with during(str(loaded.owner)):
        part = part_of_run(loaded, split) if data is None else part_of_file(loaded, data)
        scores, alone = score(loaded, part), loaded.config.mode == "centralized"
        found = scores.outcomes.figures
        known = recorded(loaded.run, loaded.owner, part.name, loaded.round, alone=alone) if part.own else None
        beside = compare(found, known[1], known[0]) if known is not None else None
        whole = None
        if merged:
            figures = score(loaded, part, MergedEvaluator(loaded)).outcomes.figures
            apart = "the split" if loaded.config.mode == "split-federated" else "adapters beside the weights"
            if loaded.quantized:
                apart = "the run, whose weights are quantised, and here are not"
            whole = compare(figures, found, apart)
        ends = {name: scores.outcomes.interval(name) for name in found}
    evaluation = Evaluation(loaded, part, scores, ends, beside, whole, [])
    return _written(evaluation)


def _written(evaluation: Evaluation) -> Evaluation:
    """The same, once its files are in the run directory; where they cannot be, its notes say so."""
    from dataclasses import replace

    from atlas_cli.errors import OutputError
    from atlas_cli.reports.evaluation_picture import confusion_picture, figures_picture
    from atlas_cli.runs.outcomes import FOLDER, write_outcomes
    from atlas_cli.storage.folder_names import folder_names

    loaded, outcomes, counts = evaluation.loaded, evaluation.scores.outcomes, evaluation.confusion
    owner = folder_names([loaded.owner.name])[loaded.owner.name]
    name = f"{owner}-{evaluation.part.file_stem}-round-{loaded.round}"
    if counts is not None:
        picture = confusion_picture(loaded.task.classes, counts, evaluation.title)
    else:
        picture = figures_picture(outcomes.figures, evaluation.intervals, outcomes.metric, evaluation.title)
    folder = loaded.run.path / FOLDER
    try:
        write_outcomes(loaded.run, name, outcomes)
        loaded.run.write_text(f"{FOLDER}/{name}.svg", picture)
    except OutputError as error:
        return replace(evaluation, unwritten=f"warning: nothing is kept for atlas compare: {error}")
    return replace(evaluation, files=[folder / f"{name}.json", folder / f"{name}.svg"])
