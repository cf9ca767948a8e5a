"""``atlas audit --frontier``: trains what a file asks for, attacks each run, and draws what came of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from atlas_cli.config.frontier import Frontier, Planned, Setting
    from atlas_cli.reports.frontier import Attacked, Point
    from atlas_cli.reports.terminal import Terminal
    from atlas_cli.runs.directory import RunDirectory

FILE = "frontier.json"


def draw_frontier(path: Path, overrides: Sequence[str], as_json: bool) -> None:
    """Train and attack all runs that are not there yet, each in turn, and write the frontier into a new folder.

    Raises:
        ConfigError: the file or one of its configs is wrong, before anything is trained.
        Exit: 1 where a run failed, 130 where it was interrupted; what is there is shown.
    """
    from atlas_cli.cli._new_folder import folder_beside_runs
    from atlas_cli.config.frontier import load_frontier
    from atlas_cli.errors import AtlasError
    from atlas_cli.interrupts import Stopping
    from atlas_cli.reports.terminal import Terminal

    frontier = load_frontier(path, overrides)
    console = Terminal(stderr=as_json)
    folder = folder_beside_runs(frontier.planned[0].loaded.config, "frontier")
    found: dict[Setting, list[Attacked]] = {setting: [] for setting in frontier.settings}
    failed, interrupted = 0, False
    try:
        with Stopping():
            for number, planned in enumerate(frontier.planned, 1):
                label = f"{number}/{len(frontier.planned)} {planned.setting.label}, seed {planned.seed}"
                log = folder.path / f"{number}.log"
                console.say(f"{label}: log {log}")
                try:
                    run, how = _trained(frontier, planned, number, log)
                    found[planned.setting].append(_attacked(run, planned, frontier))
                    console.say(f"{label}: {how}")
                except AtlasError as error:
                    failed += 1
                    console.say(f"{label}: failed: {error}")
    except KeyboardInterrupt:
        interrupted = True
    _show(_points(frontier, found), frontier, folder, console, as_json)
    if interrupted:
        console.say("interrupted; the same command goes on")
        raise typer.Exit(130)
    if failed:
        raise typer.Exit(1)


def _points(frontier: Frontier, found: Mapping[Setting, Sequence[Attacked]]) -> list[Point]:
    from atlas_cli.reports.frontier import frontier_points

    return frontier_points([(s.defence, s.strength, s.control, found[s]) for s in frontier.settings])


def _trained(frontier: Frontier, planned: Planned, number: int, log: Path) -> tuple[RunDirectory, str]:
    """The finished run of a setting, and whether it was there before.

    Raises:
        KeyboardInterrupt: it was stopped, or all is to end after it.
        AtlasError: it failed.
    """
    from atlas_cli.errors import AtlasError
    from atlas_cli.runs.directory import RunDirectory
    from atlas_cli.sweeps.trial import Trial, run_trial

    outcome = run_trial(Trial(number, str(frontier.config), planned.combination, planned.loaded.config, log))
    if outcome.ends_sweep or outcome.status == "interrupted":
        raise KeyboardInterrupt
    if outcome.run is None or outcome.status == "failed":
        raise AtlasError(outcome.error or "it left no run")
    return RunDirectory(outcome.run), "was there, attacked" if outcome.status == "skipped" else "trained, attacked"


def _attacked(run: RunDirectory, planned: Planned, frontier: Frontier) -> Attacked:
    """A run with its attacks, those of its audit.json where it has all of them on as many texts."""
    from atlas_cli.audit.attack_all import FILE as AUDIT
    from atlas_cli.audit.attack_all import audit
    from atlas_cli.audit.evidence import Evidence
    from atlas_cli.errors import AtlasError
    from atlas_cli.reports.frontier import Attacked
    from atlas_cli.reports.page.intervals import largest_class
    from atlas_cli.reports.page.report import write_report
    from atlas_cli.reports.summary import by_group, summarise
    from atlas_cli.reports.terminal import Terminal
    from atlas_cli.runs.run_lock import locked

    done = run.read_json(AUDIT) if (run.path / AUDIT).exists() else {}
    known = {each["attack"] for each in done.get("attacks", ())} | {*done.get("not_measured", ())}
    if done.get("texts") != frontier.examples or not known >= {*frontier.attacks}:
        with locked(run, run.log), Terminal(stderr=True).status("reading") as status:
            evidence = Evidence.of_run(run, frontier.examples)
            done = audit(evidence, frontier.attacks, lambda name: status.update(f"attack {name}"))
            run.write_json(AUDIT, done)
            write_report(run)
    attacks = [each for each in done["attacks"] if each["attack"] in frontier.attacks]
    if not attacks:
        raise AtlasError("; ".join(f"{name}: {why}" for name, why in done["not_measured"].items()))
    metrics = run.read_lines("metrics.jsonl")
    groups = {each.task_group: each for each in summarise(metrics, run.read_lines("clients.jsonl"))}
    use = {
        name: (each.metric, each.better, each.after)
        for name, each in groups.items()
        if each.metric is not None and each.better is not None and each.after is not None
    }
    last = {name: rows[-1] for name, rows in by_group(metrics).items()}
    least = {name: largest_class(last[name], metric) for name, (metric, *_) in use.items()}
    return Attacked(
        planned.seed,
        run.path.name,
        use,
        {name: value for name, value in least.items() if value is not None},
        attacks,
        {group: dict(_bounded(planned, channels)) for group, channels in done["epsilon"].items()},
        {name: each.bytes_up + each.bytes_down for name, each in groups.items()},
    )


def _bounded(planned: Planned, channels: Mapping[str, float | str]) -> Iterator[tuple[str, float]]:
    for channel in planned.loaded.config.privacy.bounded():
        value = channels.get(channel)
        if isinstance(value, int | float) and math.isfinite(value):
            yield channel, float(value)


def _show(points: Sequence[Point], frontier: Frontier, folder: RunDirectory, console: Terminal, as_json: bool) -> None:
    """The table; with the record and the pictures it is written into the folder."""
    from atlas_cli.reports.charts.canvas import coloured
    from atlas_cli.reports.charts.palette import DARK, LIGHT
    from atlas_cli.reports.frontier import frontier_sheet
    from atlas_cli.reports.frontier_picture import frontier_pictures
    from atlas_cli.reports.sheets import markdown, terminal

    if not points:
        console.say("no run was trained and attacked, so there is nothing to draw")
        return
    delta = frontier.planned[0].loaded.config.privacy.delta
    record = {
        "config": str(frontier.config),
        "attacks": [*frontier.attacks],
        "examples": frontier.examples,
        "seeds": [*frontier.seeds],
        "delta": delta,
        "points": [point.record() for point in points],
    }
    sheet = frontier_sheet(points, delta)
    folder.write_json(FILE, record)
    folder.write_text("frontier.md", markdown(sheet))
    for name, picture in frontier_pictures(points):
        for mode, colours in {"light": LIGHT, "dark": DARK}.items():
            folder.write_text(f"{name}-{mode}.svg", coloured(picture, colours))
    if as_json:
        typer.echo(json.dumps(record, indent=2))
        return
    console.print(terminal(sheet, console.width))
    console.say(f"pictures and table: {folder.path}")
