"""``atlas train``: run an experiment, or go on with one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from atlas_cli.cli._arguments import Json, LedgerFile, Overrides
from atlas_cli.printable import as_typed

if TYPE_CHECKING:
    from atlas_cli.runs.directory import RunDirectory

SECTION = "Run"
EXAMPLES = (
    "atlas train quickstart",
    "atlas train quickstart training.rounds=3 clients.phone-1.rank=8",
    "atlas train --resume runs/20260131-120000_quickstart_0",
    "atlas train quickstart --resume auto",
)


def command(
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE", help="Experiment config (YAML), or the name of an example.", show_default=False),
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            metavar="RUN|auto",
            help="Go on with this run directory, without FILE; auto: with the newest unfinished run of FILE.",
        ),
    ] = None,
    engine: Annotated[
        Literal["in-process", "ray"] | None,
        typer.Option("--engine", help="Where clients compute: engine.name of the config.", show_default=False),
    ] = None,
    changed_code: Annotated[
        bool,
        typer.Option(
            "--changed-code",
            help="With --resume: go on although plug-ins' files have changed, as after a mend; the manifest says so.",
        ),
    ] = False,
    no_error_ledger: Annotated[
        bool, typer.Option("--no-error-ledger", help="Do not compare deliveries with the exact sum of updates.")
    ] = False,
    ledger: LedgerFile = None,
    as_json: Json = False,
) -> None:
    """Train as FILE says and leave a run directory.

    The split is first proven equal to the unsplit model on real examples; a run that fails or is interrupted keeps what
    it wrote, and `--resume RUN` goes on from its last checkpoint.
    """
    from atlas_cli.config.load import load_config, locating
    from atlas_cli.errors import BudgetSpentError, ConfigError
    from atlas_cli.reports.progress import progress_for
    from atlas_cli.reports.terminal import Terminal
    from atlas_cli.runs.directory import open_run
    from atlas_cli.runs.resumable import require_plugins

    changes = [*(overrides or []), *(["aggregation.error_ledger=false"] if no_error_ledger else [])]
    changes += [f"engine.name={engine}"] if engine is not None else []
    named = resume if resume != "auto" else None
    if named is not None and file is not None:
        if "=" not in file:
            raise ConfigError(f"--resume RUN takes its config from the run; leave {file} out")
        changes, file = [file, *changes], None
    if named is None and file is None:
        raise ConfigError(
            "give a config, or the name of an example, e.g. atlas train quickstart (atlas init --list), or --resume RUN"
        )
    if changed_code and resume is None:
        raise ConfigError("--changed-code goes with --resume: a new run takes the code as it is; leave it out")
    run = open_run(named) if named is not None else None
    if run is not None:
        require_plugins(run)
    loaded = load_config(run.path / "config.yaml" if run else str(file), changes)
    console = Terminal(stderr=as_json)
    console.say(f"reading {', '.join([named or str(file), *changes])}")
    with locating(loaded), progress_for(console) as progress:
        progress.doing("starting")
        # heavy imports come after the config has been read, so that its errors are shown at once
        from atlas_cli.experiment import session

        if run is not None:
            done = session.resume(run, loaded, progress, take_changed_code=changed_code, ledger=ledger)
        elif resume is not None:
            done = session.resume_newest(loaded, progress, take_changed_code=changed_code, ledger=ledger)
        else:
            done = session.start(loaded.config, progress, ledger)
    if as_json:
        _print_json(done)
    else:
        _show(console, done)
    if stop := done.read_json("manifest.json").get("budget_stop"):
        raise BudgetSpentError(f"{done.path} ended after round {stop['after_round']} of {stop['of']}: {stop['why']}")


def _show(console: Any, run: RunDirectory) -> None:
    """The final table, also in log.txt."""
    from atlas_cli.reports.tables import final_table
    from atlas_cli.units import format_seconds

    manifest = run.read_json("manifest.json")
    rounds = manifest["config"]["training"]["rounds"]
    data, more = manifest["data"], f"training.rounds={2 * rounds}"
    if manifest.get("early_stop"):
        more = "training.early_stopping=null"
    if manifest.get("budget_stop"):
        more = "privacy.budget.epsilon=N"
    took = manifest["duration_s"]
    whole = "" if took is None else f"; the whole run took {format_seconds(took)}"
    metrics, clients = run.read_lines("metrics.jsonl"), run.read_lines("clients.jsonl")
    for shown in (console, log := _written(console.width)):
        shown.print(final_table(metrics, clients, data, console.width))
        shown.say(f"time: of local steps and evaluation{whole}")
        shown.say(f"report {run.path / 'report.html'}")
        shown.say(f"next: {as_typed('atlas', 'report', str(run.path), '--open')}")
        shown.say(f"more rounds: {as_typed('atlas', 'train', '--resume', str(run.path), more)}")
    run.log("\n".join(line.rstrip() for line in log.file.getvalue().splitlines()))


def _written(width: int) -> Any:
    from io import StringIO

    from atlas_cli.reports.terminal import Terminal

    return Terminal(file=StringIO(), width=width)


def _print_json(run: RunDirectory) -> None:
    import json
    from dataclasses import asdict

    from atlas_cli.reports.summary import summarise

    manifest = run.read_json("manifest.json")
    groups = summarise(run.read_lines("metrics.jsonl"), run.read_lines("clients.jsonl"), manifest["data"])
    found = {
        "run": str(run.path),
        "report": str(run.path / "report.html"),
        "status": manifest["status"],
        "early_stop": manifest.get("early_stop"),
        "budget_stop": manifest.get("budget_stop"),
        "best": manifest["best"],
        "epsilon": manifest["privacy"]["epsilon"],
        "task_groups": [asdict(group) for group in groups],
    }
    typer.echo(json.dumps(found, indent=2))
