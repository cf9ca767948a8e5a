"""``atlas predict``: what a trained model says of rows without labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from atlas_cli.cli._arguments import Client, Device, Group, Json, Round, Run

if TYPE_CHECKING:
    from atlas_cli.inference.input_rows import Input

SECTION = "Use a trained model"
EXAMPLES = (
    "atlas predict runs/20260131-120000_quickstart_0 --group spam --input mails.csv --output found.csv",
    "atlas predict runs/20260131-120000_quickstart_0 --group spam --input-format jsonl",
)


def command(
    run: Run,
    source: Annotated[
        str,
        typer.Option("--input", metavar="FILE|-", help="Rows to predict on; -: standard input, a text a line."),
    ] = "-",
    target: Annotated[
        str, typer.Option("--output", metavar="FILE|-", help="A new .jsonl or .csv file; -: standard output.")
    ] = "-",
    input_format: Annotated[
        Literal["csv", "tsv", "jsonl", "text"] | None,
        typer.Option("--input-format", help="Of standard input, or of a file whose suffix says another."),
    ] = None,
    form: Annotated[
        Literal["csv", "jsonl"] | None,
        typer.Option("--format", help="Of the output; default: by its suffix, else JSONL."),
    ] = None,
    group: Group = None,
    client: Client = None,
    round_: Round = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Rows computed together at most; default: evaluation.batch_size.")
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Predict rows without labels: each as it was given, with what the model says of it, in the same order.

    Rows are read one by one, with the columns of the task group's own data, so that a file of any length takes little
    memory. They cross the split as in training. A row that cannot be read ends the command with its line, and then no
    file is written.
    """
    from atlas_cli.errors import ConfigError
    from atlas_cli.inference.adapter_folders import choose_owner
    from atlas_cli.inference.prediction_files import form_of, writing
    from atlas_cli.reports.terminal import Terminal, busy
    from atlas_cli.runs.directory import open_run
    from atlas_cli.runs.resumable import config_of

    if as_json and target == "-":
        raise ConfigError("--json prints how many rows were predicted, where rows would go; give --output FILE")
    written = form_of(target, form)
    folder = open_run(run)
    owner = choose_owner(config_of(folder), group, client)
    console = Terminal(stderr=True)
    with busy(f"opening the model of {owner}"):
        from atlas_cli.inference.input_rows import Input
        from atlas_cli.inference.loaded_model import open_model
        from atlas_cli.inference.predictions import Predictor, columns_of, wanted_columns
        from atlas_cli.inference.round_choice import chosen_round

        given = Input(source, input_format)
        loaded = open_model(
            run, group=group, client=client, round_number=chosen_round(folder, owner, round_), device=device
        )
        given.wanted = wanted_columns(loaded).values()
    rows = iter(given)
    first = next(rows)
    predict = Predictor(loaded, columns_of(loaded, first, given.form == "text"), batch_size)
    with writing(target, written) as write, _progress(given) as advance:
        for row in predict(chain([first], rows)):
            write(row)
            advance()
    notes = [*given.notes, *predict.notes()]
    if given.skipped:
        notes.append(f"blank lines that were skipped: {given.skipped:,}")
    if (changed := loaded.changed_at_the_cut) is not None:
        notes.append(f"{changed}, as in training")
    if as_json:
        counts = {"rows": predict.rows, "cut": predict.cut, "without_prediction": predict.bare}
        about = {"task_group": owner.group, "client": owner.client, "round": loaded.round}
        typer.echo(json.dumps({"output": target, **about, **counts, "notes": notes}, indent=2))
    for note in notes:
        console.say(f"note: {note}")
    if target != "-":
        console.say(f"wrote {target}: {predict.rows:,} rows, predicted by {owner}, round {loaded.round}")


@contextmanager
def _progress(given: Input) -> Iterator[Callable[[], Any]]:
    """A bar on a terminal's standard error, over the bytes of a file; inside the block, a function that moves it on."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from atlas_cli.reports.terminal import Terminal

    console = Terminal(stderr=True)
    if not console.is_terminal:
        yield lambda: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        task, done = bar.add_task("predicting", total=given.size), 0

        def advance() -> None:
            nonlocal done
            done += 1
            bar.update(task, completed=given.read, description=f"{done:,} rows")

        yield advance
