"""``atlas train``: run an experiment, or go on with one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from atlas_cli.cli._arguments import Overrides


def command(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]", help="Experiment config (YAML), or the name of an example.", show_default=False
        ),
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
) -> None:
    """Train as FILE says and leave a run directory.

    The split is first proven equal to the unsplit model on real examples; a run that fails or is interrupted keeps what
    it wrote, and `--resume RUN` goes on from its last checkpoint. Examples: atlas train configs/quickstart.yaml
    training.rounds=3; atlas train --resume runs/20260131-120000_quickstart_0 training.rounds=20; atlas train
    configs/quickstart.yaml --resume auto
    """
    from atlas_cli.config.load import load_config, locating
    from atlas_cli.errors import ConfigError
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
    console = Terminal()
    with locating(loaded), progress_for(console) as progress:
        # heavy imports come after the config has been read, so that its errors are shown at once
        from atlas_cli.experiment import session

        if run is not None:
            done = session.resume(run, loaded, progress, take_changed_code=changed_code)
        elif resume is not None:
            done = session.resume_newest(loaded, progress, take_changed_code=changed_code)
        else:
            done = session.start(loaded.config, progress)
    _show(console, done.path)


def _show(console: Any, path: Path) -> None:
    from atlas_cli.reports.tables import final_table
    from atlas_cli.runs.directory import open_run

    run = open_run(path)
    data = run.read_json("manifest.json")["data"] if console.width >= 100 else None
    console.print(final_table(run.read_lines("metrics.jsonl"), run.read_lines("clients.jsonl"), data))
    console.say(f"report {path / 'report.html'}")
