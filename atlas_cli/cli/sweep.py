"""``atlas sweep``: a grid of runs of one config."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from atlas_cli.cli._arguments import ConfigFile, Json

if TYPE_CHECKING:
    from atlas_cli.config.grid import Combination
    from atlas_cli.config.load import LoadedConfig
    from atlas_cli.reports.terminal import Terminal
    from atlas_cli.runs.directory import RunDirectory
    from atlas_cli.sweeps.terms import Leaderboard, Terms
    from atlas_cli.sweeps.trial import Outcome, Trial

SECTION = "Run"
EXAMPLES = (
    "atlas sweep quickstart seed=0,1,2 aggregation.method=delta-svd,fedex",
    "atlas sweep gpt2 'lora.targets=[c_attn],[c_attn, c_proj]' --dry-run",
    "atlas sweep quickstart seed=0,1,2 lora.rank=4,16 --protocol quality-under-budget --budget 'bytes=50 MB'",
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
    protocol: Annotated[
        Literal["quality-under-budget", "cost-to-target", "robustness"] | None,
        typer.Option(
            help="End with a leaderboard of the settings, from the records of their runs.", show_default=False
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="'time=2 h, energy=5 kJ, bytes=200 MB, memory=2 GiB'",
            help="What a run may spend, one limit or several; memory is the measured peak of its largest client.",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=VALUE",
            help="What is to be reached with --protocol cost-to-target; with robustness, what reaching it costs more.",
        ),
    ] = None,
    held: Annotated[
        int | None,
        typer.Option(
            min=1, help="In how many evaluations in a row a target must be reached; the first counts.", show_default="1"
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="SETTING",
            help="With cost-to-target, the setting to which costs are given as a ratio, e.g. lora.rank=4.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would become of each run, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Train every combination of the values given, each in a process of its own, and compare the results.

    All configs are checked before the first run. A run that fails does not stop the others (exit code 1 at the end).
    The same command again goes on: finished runs are skipped, interrupted and failed ones go on from their last
    checkpoint. Values in brackets, braces or quotes are one value.

    A --protocol holds the settings against each other over their seeds: their quality within a budget of virtual time,
    energy, bytes or memory; the cost of a target; or the share of its quality that each keeps under faults or other
    devices, of which the first value on the command line is the undisturbed one.
    """
    from atlas_cli import discovery
    from atlas_cli.cli._new_folder import folder_beside_runs
    from atlas_cli.config.grid import expand, load_grid
    from atlas_cli.interrupts import Stopping
    from atlas_cli.reports.terminal import Terminal
    from atlas_cli.sweeps.trial import Trial

    executor = discovery.load("sweeps.executors", engine, key="--engine")
    combinations = expand(overrides or [])
    loaded = load_grid(file, combinations)
    asked = {"--budget": budget, "--target": target or None, "--held": held, "--baseline": baseline}
    terms = _terms(protocol, asked, combinations, loaded)
    if dry_run:
        _dry_run(combinations, loaded, as_json)
        return
    console = Terminal(stderr=as_json)
    folder = folder_beside_runs(loaded[0].config, "sweep")
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
    _show(_rows(trials, done), as_json, _leaderboard(_rows(trials, done), terms, folder) if terms is not None else None)
    if interrupted:
        console.print("interrupted; the same command goes on")
        raise typer.Exit(130)
    if any(outcome.status == "failed" for outcome in done.values()):
        raise typer.Exit(1)


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


def _terms(
    protocol: str | None, asked: dict[str, Any], combinations: list[Combination], loaded: list[LoadedConfig]
) -> Terms | None:
    """What the protocol was asked for, by option, checked before anything is trained."""
    from atlas_cli.errors import ConfigError
    from atlas_cli.sweeps.terms import terms_of

    if protocol is None:
        for option, value in asked.items():
            if value is not None:
                raise ConfigError("goes with --protocol", key=option)
        return None
    options = {option.removeprefix("--"): value for option, value in asked.items()}
    return terms_of(protocol, **options, combinations=combinations, configs=[each.config for each in loaded])


def _leaderboard(rows: list[tuple[Trial, Outcome]], terms: Terms, folder: RunDirectory) -> Leaderboard:
    """The leaderboard of the finished runs; its record and pictures are written beside the logs."""
    from atlas_cli.reports.charts.canvas import coloured
    from atlas_cli.reports.charts.palette import DARK, LIGHT
    from atlas_cli.reports.page.records import RunRecords
    from atlas_cli.reports.protocols.leaderboard import Run
    from atlas_cli.runs.directory import RunDirectory as Directory

    finished = [
        Run(trial.combination.values, RunRecords.of_run(Directory(outcome.run)))
        for trial, outcome in rows
        if outcome.status in ("finished", "skipped") and outcome.run is not None
    ]
    found = terms.leaderboard(finished)
    folder.write_json("leaderboard.json", found.record())
    for name, picture in found.pictures():
        for mode, colours in {"light": LIGHT, "dark": DARK}.items():
            folder.write_text(f"{name}-{mode}.svg", coloured(picture, colours))
    return found


def _show(rows: list[tuple[Trial, Outcome]], as_json: bool, leaderboard: Leaderboard | None) -> None:
    from atlas_cli.cli._tables.sweep import SEED, cautions, failures, seeds_table, sweep_record, sweep_table
    from atlas_cli.reports.sheets import terminal
    from atlas_cli.reports.terminal import Terminal

    if as_json:
        board = {} if leaderboard is None else {"leaderboard": leaderboard.record()}
        typer.echo(json.dumps(sweep_record(rows) | board, indent=2))
        return
    console = Terminal()
    console.print(sweep_table(rows))
    for line in failures(rows):
        console.say(line)
    if SEED in rows[0][0].combination.values:
        console.print(seeds_table(rows))
    for line in cautions(rows):
        console.say(line)
    if leaderboard is not None:
        console.print(terminal(leaderboard.sheet(), console.width))


def _dry_run(combinations: list[Combination], loaded: list[LoadedConfig], as_json: bool) -> None:
    from atlas_cli.cli._tables.sweep import dry_run_record, dry_run_table
    from atlas_cli.reports.terminal import Terminal
    from atlas_cli.runs.run_status import find_status

    rows = [(each, find_status(its.config)) for each, its in zip(combinations, loaded, strict=True)]
    if as_json:
        typer.echo(json.dumps(dry_run_record(rows), indent=2))
        return
    Terminal().print(dry_run_table(rows))
