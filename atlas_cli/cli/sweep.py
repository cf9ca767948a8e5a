"""``atlas sweep``: a grid of runs of one config."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from atlas_cli.cli._arguments import ConfigFile, Json

if TYPE_CHECKING:
    from atlas_cli.config.grid import Combination
    from atlas_cli.config.load import LoadedConfig
    from atlas_cli.reports.terminal import Terminal
    from atlas_cli.runs.directory import RunDirectory
    from atlas_cli.sweeps.trial import Outcome, Trial

SECTION = "Run"
EXAMPLES = (
    "atlas sweep quickstart seed=0,1,2 aggregation.method=delta-svd,fedex",
    "atlas sweep gpt2 'lora.targets=[c_attn],[c_attn, c_proj]' --dry-run",
)


def command(
    file: ConfigFile,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE,...",
            help="Changes to the config; several values between commas are an axis of the grid.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="in-process: one run after the other; ray: side by side on a cluster.")
    ] = "in-process",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would become of each run, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Train every combination of the values given, each in a process of its own, and compare the results.

    All configs are checked before the first run. A run that fails does not stop the others (exit code 1 at the end).
    The same command again goes on: finished runs are skipped, interrupted and failed ones go on from their last
    checkpoint. Values in brackets, braces or quotes are one value.
    """
    from atlas_cli import discovery
    from atlas_cli.config.grid import expand, load_grid
    from atlas_cli.interrupts import Stopping
    from atlas_cli.reports.terminal import Terminal
    from atlas_cli.sweeps.trial import Trial

    executor = discovery.load("sweeps.executors", engine, key="--engine")
    combinations = expand(overrides or [])
    loaded = load_grid(file, combinations)
    if dry_run:
        _dry_run(combinations, loaded, as_json)
        return
    console = Terminal(stderr=as_json)
    folder = _folder(loaded[0])
    trials = [
        Trial(number, str(file), combination, its.config, folder.path / f"{number}.log")
        for number, (combination, its) in enumerate(zip(combinations, loaded, strict=True), 1)
    ]
    done: dict[int, Outcome] = {}
    interrupted = False
    try:
        with Stopping():  # SIGTERM is a KeyboardInterrupt, too
            for outcome in executor.run_all(trials, lambda trial: _say(console, trials, trial, f"log {trial.log}")):
                done[outcome.number] = outcome
                _record(folder, trials, done, goes_on=True)
                _say(console, trials, trials[outcome.number - 1], _ended(outcome))
                interrupted = interrupted or outcome.ends_sweep
    except KeyboardInterrupt:
        interrupted = True
    _record(folder, trials, done, goes_on=False)
    _show(_rows(trials, done), as_json)
    if interrupted:
        console.print("interrupted; the same command goes on")
        raise typer.Exit(130)
    if any(outcome.status == "failed" for outcome in done.values()):
        raise typer.Exit(1)


def _folder(first: LoadedConfig) -> RunDirectory:
    """A new folder beside the runs, for their logs and the table."""
    from atlas_cli.runs.directory import RunDirectory, folder_of_runs, make_new
    from atlas_cli.storage.writing import writing

    base = folder_of_runs(first.config.output.dir)
    with writing(base):
        base.mkdir(parents=True, exist_ok=True)
        return RunDirectory(make_new(base, f"{datetime.now():%Y%m%d-%H%M%S}_{first.config.name}_sweep"))


def _rows(trials: list[Trial], done: dict[int, Outcome]) -> list[tuple[Trial, Outcome]]:
    from atlas_cli.sweeps.trial import Outcome

    return [(trial, done.get(trial.number, Outcome(trial.number, "not started"))) for trial in trials]


def _record(folder: RunDirectory, trials: list[Trial], done: dict[int, Outcome], *, goes_on: bool) -> None:
    from atlas_cli.cli._tables.sweep import sweep_record
    from atlas_cli.errors import OutputError
    from atlas_cli.reports.page.report import FILE
    from atlas_cli.reports.page.sweep import sweep_page

    record = sweep_record(_rows(trials, done))
    with suppress(OutputError):  # on a full disk the runs fail, and say so
        folder.write_json("sweep.json", record)
        folder.write_text(FILE, sweep_page(folder.path, record, again=goes_on))


def _say(console: Terminal, trials: list[Trial], trial: Trial, text: str) -> None:
    line = f"{trial.number}/{len(trials)} {trial.combination.label}".rstrip()
    console.say(f"{line}: {text}")


def _ended(outcome: Outcome) -> str:
    from atlas_cli.units import format_number, format_seconds

    if outcome.status == "failed":
        return f"failed: {outcome.error}"
    figures = "".join(f"  {g.task_group} {g.metric} {format_number(g.after)}" for g in outcome.groups if g.metric)
    after = f" after {format_seconds(outcome.seconds)}" if outcome.log else ""
    return f"{outcome.status}{after}{figures}"


def _show(rows: list[tuple[Trial, Outcome]], as_json: bool) -> None:
    from atlas_cli.cli._tables.sweep import SEED, cautions, failures, seeds_table, sweep_record, sweep_table
    from atlas_cli.reports.terminal import Terminal

    if as_json:
        typer.echo(json.dumps(sweep_record(rows), indent=2))
        return
    console = Terminal()
    console.print(sweep_table(rows))
    for line in failures(rows):
        console.say(line)
    if SEED in rows[0][0].combination.values:
        console.print(seeds_table(rows))
    for line in cautions(rows):
        console.say(line)


def _dry_run(combinations: list[Combination], loaded: list[LoadedConfig], as_json: bool) -> None:
    from atlas_cli.cli._tables.sweep import dry_run_record, dry_run_table
    from atlas_cli.reports.terminal import Terminal
    from atlas_cli.runs.run_status import find_status

    rows = [(each, find_status(its.config)) for each, its in zip(combinations, loaded, strict=True)]
    if as_json:
        typer.echo(json.dumps(dry_run_record(rows), indent=2))
        return
    Terminal().print(dry_run_table(rows))
