"""``atlas memory-report``: who needs how many bytes, predicted for a config, and measured in a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atlas_cli.cli._arguments import Json, Overrides

if TYPE_CHECKING:
    from atlas_cli.reports.memory import Holder
    from atlas_cli.runs.directory import RunDirectory

Record = dict[str, Any]

SECTION = "Look at results"
EXAMPLES = (
    "atlas memory-report",
    "atlas memory-report runs/20260131-120000_quickstart_0 --plot memory.svg",
    "atlas memory-report gpt2 model.split_layer=2 training.batch_size=8 --measure",
)


def command(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN|CONFIG]", help="Run directory or config file; default: newest run under runs/."),
    ] = None,
    overrides: Overrides = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="CONFIG: run steps of each distinct client in a process of its own.")
    ] = False,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, in bytes, instead of tables.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Also draw where memory goes (.png or .svg).")
    ] = None,
) -> None:
    """Show the memory of every client and the server beside full fine-tuning and unsplit LoRA.

    A CONFIG is predicted from the model's shapes: no weights are loaded. A RUN shows what was measured, and the
    prediction for the same batches with its error.
    """
    from atlas_cli.errors import ConfigError
    from atlas_cli.reports.memory_picture import check_name
    from atlas_cli.runs.directory import open_run
    from atlas_cli.runs.listing import newest_run

    if as_json and as_csv:
        raise ConfigError("give --json or --csv, not both")
    if plot is not None:
        check_name(plot)
    config = source if source is not None and not source.is_dir() and _is_config(source) else None
    if config is not None:
        _of_config(config, list(overrides or []), measure, as_json, as_csv, plot)
        return
    if measure or overrides:
        what = "--measure" if measure else "key=value"
        raise ConfigError(f"{what} is for configs; give a config file, such as the run's config.yaml")
    _of_run(newest_run() if source is None else open_run(source), as_json, as_csv, plot)


def _is_config(source: Path) -> bool:
    from atlas_cli.config.examples import config_file

    return config_file(source)[0].is_file() or source.suffix in (".yaml", ".yml")


def _of_config(
    config: Path, overrides: list[str], measure: bool, as_json: bool, as_csv: bool, plot: Path | None
) -> None:
    from atlas_cli.cli._tables import memory_prediction as report
    from atlas_cli.config.load import load_config, locating
    from atlas_cli.planning.client_rows import read_kept, read_rows
    from atlas_cli.planning.memory_assumptions import notes_on, read_classes, read_texts
    from atlas_cli.planning.memory_of_plan import predict
    from atlas_cli.planning.plan import make_plan
    from atlas_cli.reports.terminal import Terminal, busy

    loaded = load_config(config, overrides)
    with locating(loaded), busy("tracing the model's memory"):
        plan = make_plan(loaded.config)
        classes, notes = read_classes(plan)
        held, assumed = read_rows(plan.config, plan.hf_config)
        sent, of_sent = read_kept(plan.config, plan.hf_config)
        kept = {name: of_client.tokens for name, of_client in sent.items()}
        texts, of_texts = read_texts(plan)
        prediction = predict(plan, classes, rows=held, kept=kept, texts=texts, sent=sent)
    notes = [*notes_on(plan), *report.folded_note(prediction), *notes, *assumed, *of_sent, *of_texts]
    record: Record = prediction.record() | {"notes": notes}
    both: Record = {}
    if measure:
        from atlas_cli.experiment.allocation.measured_client import measure_client

        found: dict[str, Record] = {}
        for kind in prediction.kinds:
            if (name := kind.names[0]) != kind.alike:
                continue
            with busy(f"measuring {name}"):
                named = classes.get(kind.client.task_group, ())
                one = measure_client(config, overrides, name, kind.shape, named, kind.rows)
            found[name] = {**one.parts, "peak": one.peak, "resident": one.resident}
        both = report.measured_comparison(record, found)
        record["measured"] = both
    if plot is not None:
        _draw(plot, report.predicted_rows(record), f"{plan.config.name}: memory predicted")
    if as_json:
        typer.echo(json.dumps(record, indent=2))
    elif as_csv:
        rows = report.comparison_csv(both, ("peak", "resident")) if measure else report.predicted_csv(record)
        typer.echo(report.csv_text(rows), nl=False)
    else:
        console = Terminal()
        shown = [report.predicted_table(record, notes)]
        shown += [report.comparison_table(both, ("peak", "resident"), *_MEASURED)] if measure else []
        shown += [report.round_table(record)] if record["round"] else []
        for table in shown:
            console.print(table)


_MEASURED = (
    "A client of each kind, run alone in a process of its own, in MiB",
    "peak: of its tensors; resident: of the process, less the interpreter with torch loaded",
)
_COMPARED = (
    "Prediction for the batches that were measured, in MiB",
    "total: without what is transient, which a run does not measure",
)


def _of_run(run: RunDirectory, as_json: bool, as_csv: bool, plot: Path | None) -> None:
    from atlas_cli.cli._tables import memory_prediction as report
    from atlas_cli.reports.memory import MAX_TABLE_CLIENTS, holders, memory_table
    from atlas_cli.reports.terminal import Terminal
    from atlas_cli.runs.resumable import read_manifest

    peak, memory = read_manifest(run).get("process_rss_peak"), run.read_json("memory.json")
    both, notes = _compare(run, memory)
    if plot is not None:
        _draw(plot, holders(memory, MAX_TABLE_CLIENTS), f"{run.path.name}: memory measured")
    if as_json:
        typer.echo(
            json.dumps(
                {**memory, "process_rss_peak": peak, "prediction": both or None, "notes": notes},
                indent=2,
            )
        )
    elif as_csv:
        shown = both or {
            name: {"measured": parts, "predicted": {}, "error_percent": {}} for name, parts in memory["clients"].items()
        }
        typer.echo(report.csv_text(report.comparison_csv(shown, ("total",))), nl=False)
    else:
        console = Terminal()
        console.say(str(run.path))
        console.print(memory_table(memory, peak))
        if both:
            console.print(report.comparison_table(report.one_a_kind(both), ("total",), *_COMPARED))
        for note in notes:
            console.say(note)


def _compare(run: RunDirectory, memory: Record) -> tuple[Record, list[str]]:
    """Prediction beside measurement, and what it leaves out or why there is none: a run may outlive its model."""
    from atlas_cli.cli._tables.memory_prediction import run_comparison
    from atlas_cli.errors import AtlasError
    from atlas_cli.planning.memory_assumptions import unpredicted
    from atlas_cli.planning.memory_of_plan import predict, served_client, shapes_of
    from atlas_cli.planning.plan import make_plan
    from atlas_cli.runs.resumable import config_of

    try:
        plan = make_plan(config_of(run))
        groups = run.read_json("manifest.json")["data"]
        classes = {name: data["classes"] for name, data in groups.items()}
        rows = {name: n for data in groups.values() for name, n in data.get("embedding_rows", {}).items()}
        kept = (memory["server"] or {}).get("kept_tokens")
        texts = {name: parts["text_tokens"] for name, parts in memory["clients"].items() if "text_tokens" in parts}
        prediction = predict(plan, classes, shapes_of(memory), rows, kept, served_client(memory), texts)
    except AtlasError as error:
        return {}, [f"no prediction: {error}"]
    predicted = prediction.record() | {"clients": prediction.records_of(memory["clients"])}
    return run_comparison(memory, predicted), unpredicted(plan.config)


def _draw(path: Path, rows: list[Holder], title: str) -> None:
    from atlas_cli.cli._tables.memory_prediction import ALL_PARTS
    from atlas_cli.reports.memory_picture import draw

    draw(path, rows, ALL_PARTS, title)
