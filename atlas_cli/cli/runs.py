"""``atlas runs``: a list of the runs in a folder."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from atlas_cli.cli._arguments import Json
from atlas_cli.printable import as_typed

if TYPE_CHECKING:
    from atlas_cli.reports.listed_runs import ListedRun

SECTION = "Look at results"
EXAMPLES = (
    "atlas runs",
    "atlas runs --status finished --sort best",
    "atlas runs results --where aggregation.method=fedex",
)


def command(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="A folder of runs: output.dir of their configs.")
    ] = Path("runs"),
    status: Annotated[
        list[str] | None,
        typer.Option(metavar="STATUS", help="Only runs that are so, e.g. finished; may be given several times."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only runs whose config has this value; may be given several times."),
    ] = None,
    sort: Annotated[
        Literal["started", "best", "bytes", "seconds"],
        typer.Option(help="What comes first: the newest, the best first task group, the fewest bytes or seconds."),
    ] = "started",
    as_json: Json = False,
) -> None:
    """List the runs of a folder: status, rounds, best figures, bytes, time, and the config keys in which they differ.

    A run is "killed" where it says that it is running and no process writes there. Folders that are damaged, or that no
    run wrote, are listed as such. `atlas compare` says what lies between runs.
    """
    from atlas_cli.cli._tables.runs import config_lines, problems, runs_record, runs_table
    from atlas_cli.reports.listed_runs import differences, list_runs
    from atlas_cli.reports.terminal import Terminal, busy
    from atlas_cli.runs.directory import folder_of_runs

    wanted = _statuses(status or [])
    conditions = [_condition(text) for text in where or []]
    with busy("reading the runs"):
        found = list_runs(folder_of_runs(folder))
    runs = [run for run in found if (not wanted or run.state in wanted) and _fits(run, conditions)]
    runs = _sorted(runs, sort)
    differ = differences(runs)
    if as_json:
        typer.echo(json.dumps(runs_record(str(folder), runs, differ), indent=2))
        return
    console = Terminal()
    if shown := [run for run in runs if run.state != "foreign"]:
        console.print(runs_table(shown, differences(shown), console.width))
    elif wanted or conditions:
        console.say(f"no such run among the {len(found)} folders in {folder}")
    else:
        console.say(f"no run in {folder}; start one with atlas train, or give another folder")
    for line in (*config_lines(runs, differ), *problems(runs)):
        console.say(line)
    if hint := _next(runs):
        console.say(f"next: {hint}")


def _statuses(given: list[str]) -> set[str]:
    from atlas_cli.errors import ConfigError
    from atlas_cli.reports.listed_runs import STATES
    from atlas_cli.suggest import did_you_mean

    for status in given:
        if status not in STATES:
            raise ConfigError(f"{status!r} is no status{did_you_mean(status, STATES)}", key="--status")
    return set(given)


def _condition(text: str) -> tuple[str, object]:
    from atlas_cli.config import strict_yaml
    from atlas_cli.errors import ConfigError

    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ConfigError(f"{text!r} must be KEY=VALUE, e.g. aggregation.method=fedex", key="--where")
    return key, strict_yaml.parse(value, key).data


def _fits(run: ListedRun, conditions: list[tuple[str, object]]) -> bool:
    from atlas_cli.config.flat import flat

    values = flat(run.config) if conditions else {}
    return all(key in values and values[key] == value for key, value in conditions)


def _sorted(runs: list[ListedRun], by: str) -> list[ListedRun]:
    """Runs that have no such figure come last, in the order that they had."""

    def place(run: ListedRun) -> tuple[bool, float]:
        best = next((group for group in run.groups if group.best is not None), None)
        figure = {
            "started": 0.0,
            "best": None if best is None or best.best is None else best.best * (-1 if best.better == "higher" else 1),
            "bytes": float(run.bytes_up + run.bytes_down) if run.groups else None,
            "seconds": run.seconds,
        }[by]
        return figure is None, figure or 0.0

    return sorted(runs, key=place)


def _next(runs: list[ListedRun]) -> str:
    """The command that goes on with what the list shows: the first two runs that were tested on the same examples."""
    with_figures = [run for run in runs if run.groups]
    for first, second in combinations(with_figures, 2):
        if _tested_on(first) & _tested_on(second):
            return as_typed("atlas", "compare", str(first.path), str(second.path))
    return as_typed("atlas", "report", str(with_figures[0].path), "--open") if with_figures else ""


def _tested_on(run: ListedRun) -> set[tuple[str, str | None]]:
    """By metric, the test parts of its task groups."""
    return {(group.test_sha256, group.metric) for group in run.groups if group.test_sha256}
