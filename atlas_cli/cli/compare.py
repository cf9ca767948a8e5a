"""``atlas compare``: what differs between runs, how sure that is, and what a target cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from atlas_cli.cli._arguments import Json

if TYPE_CHECKING:
    from atlas_cli.reports.comparison.compared import ComparedRun
    from atlas_cli.reports.comparison.whole import Comparison
    from atlas_cli.runs.directory import RunDirectory

SECTION = "Look at results"
EXAMPLES = (
    "atlas compare runs/20260131-120000_quickstart_0 runs/20260131-130000_quickstart_0",
    "atlas compare runs/*_quickstart_* --target accuracy=0.85 --output comparison",
    "atlas compare runs/*_quickstart_* --by-seed --format latex",
)
RECORD = "comparison.json"
WRITTEN = {".md", ".tex", ".csv", ".svg"}  # suffixes of what stands beside it


def command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN ...", help="Run directories; others are held against the first.")
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC=VALUE", help="Say what it cost to reach this; default: what all runs reach."),
    ] = None,
    by_seed: Annotated[
        bool, typer.Option("--by-seed", help="Means and deviations over runs that differ in their seed alone.")
    ] = False,
    form: Annotated[
        Literal["markdown", "latex", "csv"] | None,
        typer.Option("--format", help="Print tables to copy, instead of those for a terminal.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write tables in all three formats, pictures and JSON into this folder."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare runs: config, versions, data, figures with 95 % intervals and paired tests, memory, cost of a target.

    A paired test needs what each model made of every test example: `atlas evaluate RUN` writes that, once for each run.
    What one run has and another lacks, and test parts that differ, are named below the tables.
    """
    from atlas_cli.errors import ConfigError
    from atlas_cli.reports.comparison.whole import compare
    from atlas_cli.reports.sheets import FORMATS, terminal
    from atlas_cli.reports.terminal import Terminal, busy
    from atlas_cli.runs.directory import open_run

    if len(runs) < 2:
        raise ConfigError("give two run directories or more; atlas runs lists them")
    if form is not None and as_json:
        raise ConfigError("give --format or --json, not both")
    targets = dict(_target(text) for text in target or [])
    with busy("comparing"):
        found = compare(*_read([open_run(path) for path in runs]), targets, by_seed=by_seed)
    if output is not None:
        _write(found, output)
    if as_json:
        typer.echo(json.dumps(found.record(), indent=2))
        return
    if form is not None:
        typer.echo("\n".join(FORMATS[form][1](sheet) for sheet in found.sheets()), nl=False)
        for note in found.notes:
            typer.echo(note, err=True)
        return
    console = Terminal()
    for sheet in found.sheets():
        console.print(terminal(sheet, console.width))
        console.print()
    for note in found.notes:
        console.say(note)
    if output is not None:
        console.say(f"tables and pictures {output}")


def _read(runs: list[RunDirectory]) -> tuple[list[ComparedRun], list[str]]:
    """The runs, and a note on each that has not finished."""
    from atlas_cli.reports.comparison.compared import read_runs
    from atlas_cli.runs.run_lock import writer_of

    going_on = [writer_of(run) is not None for run in runs]
    read = read_runs(runs, going_on)
    notes = [
        f"{run.name}: has not finished ({'going on' if on else run.records.manifest.get('status')}); "
        f"compared as it is after round {run.records.done or 0}"
        for run, on in zip(read, going_on, strict=True)
        if on or run.records.manifest.get("status") != "finished"
    ]
    return read, notes


def _target(text: str) -> tuple[str, float]:
    from atlas_cli.errors import ConfigError

    metric, _, value = text.partition("=")
    try:
        return metric, float(value)
    except ValueError:
        raise ConfigError(f"{text!r} must be METRIC=VALUE, e.g. accuracy=0.85", key="--target") from None


def _write(found: Comparison, folder: Path) -> None:
    """Tables in every format, pictures for light and dark pages, and all as JSON, in place of an earlier comparison."""
    from atlas_cli.errors import OutputError
    from atlas_cli.reports.charts.canvas import coloured
    from atlas_cli.reports.charts.palette import DARK, LIGHT
    from atlas_cli.reports.sheets import FORMATS

    files: dict[str, str] = {}
    for sheet in found.sheets():
        files |= {f"{sheet.name}{suffix}": written(sheet) for suffix, written in FORMATS.values()}
    for name, picture in found.pictures():
        files |= {f"{name}-{mode}.svg": coloured(picture, c) for mode, c in {"light": LIGHT, "dark": DARK}.items()}
    files[RECORD] = json.dumps({**found.record(), "files": sorted(files)}, indent=2) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _earlier(folder) - set(files):
            (folder / name).unlink(missing_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise OutputError(f"--output: cannot write {folder}: {error.strerror or error}") from error


def _earlier(folder: Path) -> set[str]:
    """The files that an earlier comparison wrote there, by its own list: a table of its runs would pass for one of
    these."""
    try:
        listed = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
        return {name for name in listed if Path(name).name == name and Path(name).suffix in WRITTEN}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return set()
