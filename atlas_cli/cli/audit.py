"""``atlas audit``: attack the messages of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atlas_cli.cli._arguments import Json, Overrides
from atlas_cli.printable import as_typed

if TYPE_CHECKING:
    from atlas_cli.config.load import LoadedConfig
    from atlas_cli.reports.terminal import Terminal
    from atlas_cli.runs.directory import RunDirectory

SECTION = "Look at results"
EXAMPLES = (
    "atlas audit runs/20260131-120000_quickstart_0",
    "atlas audit quickstart training.rounds=1",
    "atlas audit quickstart --attack membership --lira 16",
    "atlas audit quickstart --attack canary --canaries 100",
    "atlas audit quickstart --attack attribute-inference --attribute fine",
    "atlas audit --by-layer quickstart --output leakage",
    "atlas audit --frontier questions",
)


def command(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|FILE", help="Run directory, or a config to train first.", show_default=False)
    ],
    overrides: Overrides = None,
    attack: Annotated[
        list[str] | None, typer.Option("--attack", metavar="NAME", help="Only this one; may be given several times.")
    ] = None,
    examples: Annotated[int, typer.Option(min=20, help="Texts that an attack looks at.")] = 256,
    lira: Annotated[
        int | None,
        typer.Option(min=4, metavar="N", help="Also attack membership with N shadow runs, each as long as the run."),
    ] = None,
    canaries: Annotated[
        int | None,
        typer.Option(min=20, metavar="N", help="Also plant N sequences in a run of their own, as long as the run."),
    ] = None,
    attribute: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Also infer the values of this column of the data, read or not."),
    ] = None,
    by_layer: Annotated[
        bool,
        typer.Option(
            "--by-layer",
            rich_help_panel="Instead of attacking a run",
            help="Measure every split layer of FILE's model instead; trains nothing.",
        ),
    ] = False,
    without: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="Instead of attacking a run",
            metavar="CLIENT",
            help="Compare rounds of FILE with and without it instead: many short runs.",
        ),
    ] = None,
    runs: Annotated[
        int,
        typer.Option(rich_help_panel="Instead of attacking a run", min=200, help="With --without: of either world."),
    ] = 200,
    frontier: Annotated[
        bool,
        typer.Option(
            "--frontier",
            rich_help_panel="Instead of attacking a run",
            help="Train and attack the defences of FILE at each strength; draw use against the worst attack.",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel="Instead of attacking a run",
            metavar="DIR",
            help="With --by-layer: leakage.json and pictures go here.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Attack the recorded messages of RUN as an honest but curious server, or who listens, sees them.

    A run records messages where its config has a section audit; a config is trained first. Each figure comes with its
    95 % interval, what chance gives, and the best possible; the privacy score is that of the worst attack. Writes
    audit.json into the run directory and the figures into its report. Fails where an attack shows a larger epsilon than
    the accountant promises.
    """
    import json

    from atlas_cli import discovery
    from atlas_cli.errors import ConfigError
    from atlas_cli.reports.terminal import Terminal

    is_run = source.is_dir()
    console = Terminal()
    if frontier:
        given: dict[str, object] = {
            "--by-layer": by_layer,
            "--without": without,
            "--attack": attack,
            "--output": output,
        }
        given |= {"--lira": lira, "--canaries": canaries, "--attribute": attribute}
        if refused := [option for option, value in given.items() if value]:
            raise ConfigError("give it without --frontier, whose FILE says what is attacked", key=refused[0])
        from atlas_cli.cli._frontier import draw_frontier

        draw_frontier(source, overrides or [], as_json)
        return
    if is_run and (by_layer or without or overrides):
        raise ConfigError("is a run; --by-layer, --without and KEY=VALUE are for a config", where=str(source))
    if by_layer and without:
        raise ConfigError("give it without --by-layer", key="--without")
    if output is not None and not by_layer:
        raise ConfigError("is for --by-layer; an audit of a run goes into its directory", key="--output")
    of_messages = {"--lira": lira, "--canaries": canaries, "--attribute": attribute}
    if (by_layer or without) and (misplaced := [option for option, value in of_messages.items() if value]):
        raise ConfigError("is for the messages of a run; give it without --by-layer and --without", key=misplaced[0])
    if by_layer:
        _by_layer(source, overrides or [], examples, output, as_json)
        return
    if without:
        _two_worlds(source, overrides or [], without, runs, as_json)
        return
    for name, value in {"lira": lira, "canary": canaries, "attribute-inference": attribute}.items():
        if value and attack and name not in attack:
            attack = [*attack, name]
    for name in attack or ():
        discovery.find("audit.attacks", name, key="--attack")  # before a config is trained
    if is_run:
        from atlas_cli.runs.directory import open_run

        run = open_run(source)
    else:
        run = _trained(source, overrides or [], attribute, Terminal(stderr=True, quiet=as_json))
    from atlas_cli.audit.attack_all import FILE, audit
    from atlas_cli.audit.attributes import require_attribute
    from atlas_cli.audit.epsilon_gap import require_bounds
    from atlas_cli.audit.evidence import Evidence
    from atlas_cli.reports.audit import attack_notes, audit_notes, audit_table
    from atlas_cli.reports.page.report import write_report
    from atlas_cli.runs.run_lock import locked

    with locked(run, run.log), Terminal(stderr=True).status("reading") as status:
        evidence = Evidence.of_run(run, examples, lira or 0, canaries or 0, attribute)
        if attribute is not None:
            require_attribute({name: group.data for name, group in evidence.federation.data.items()}, attribute)
        found = audit(evidence, attack or [], lambda name: status.update(f"attack {name}"))
        run.write_json(FILE, found)
        write_report(run)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        console.print(audit_table(found))
        for note in (*attack_notes(found), *audit_notes(found)):
            console.say(note)
    require_bounds(found)


def _trained(file: Path, overrides: list[str], attribute: str | None, console: Terminal) -> RunDirectory:
    """A run of a config whose data has the attribute; where it does not say what to record, the first round is."""
    from atlas_cli.config.load import load_config, locating
    from atlas_cli.config.schema.audit import AuditConfig
    from atlas_cli.reports.progress import progress_for

    loaded: LoadedConfig = load_config(file, overrides)
    config = loaded.config
    if config.audit is None:
        config = config.model_copy(update={"audit": AuditConfig()})
    with locating(loaded), progress_for(console) as progress:
        from atlas_cli.audit.attributes import require_attribute
        from atlas_cli.data.read import read_group
        from atlas_cli.experiment import session

        if attribute is not None:  # before a run is trained
            groups = config.task_groups.items()
            data = {name: read_group(name, group, config.rows_seed, config.holdout) for name, group in groups}
            require_attribute(data, attribute)
        return session.start(config, progress)


def _by_layer(file: Path, overrides: list[str], examples: int, output: Path | None, as_json: bool) -> None:
    """Measure every split layer of a config's model on the texts of its clients."""
    import json
    import math

    from atlas_cli.audit.figures import Inapplicable
    from atlas_cli.config.load import load_config, locating
    from atlas_cli.errors import ConfigError
    from atlas_cli.reports.terminal import Terminal

    loaded = load_config(file, overrides)
    if output is not None:
        with _writing(output):
            output.mkdir(parents=True, exist_ok=True)
    with locating(loaded), Terminal(stderr=True).status("reading") as status:
        from atlas_cli.audit.depth import costs_by_layer, measure_depth
        from atlas_cli.cli._tables.depth import depth_record, depth_table, draw_depth, leakage_file
        from atlas_cli.federation.build import build_for_audit

        federation = build_for_audit(loaded.config)
        costs = costs_by_layer(loaded.config, federation.base.config)
        try:
            layers = measure_depth(federation, examples, lambda layer: status.update(f"split layer {layer}"))
        except Inapplicable as reason:
            raise ConfigError(str(reason), where=str(file)) from None
    record = depth_record(layers, costs)
    if output is not None:
        origins = ", ".join(group.data.origin for group in federation.data.values())
        leakage = leakage_file(layers, f"atlas audit --by-layer, {federation.base.name}, {examples} texts of {origins}")
        with _writing(output):
            for name, content in (("leakage.json", leakage), ("by-layer.json", record)):
                (output / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", newline="\n")
            for suffix in ("png", "svg"):
                draw_depth(layers, costs, output / f"by-layer.{suffix}")
    if as_json:
        typer.echo(json.dumps(record, indent=2))
        return
    console = Terminal()
    console.print(depth_table(layers, costs))
    if output is not None:
        name = federation.base.name
        allowed = math.ceil(100 * layers[-1].leakage) / 100
        hint = as_typed(name, "--leakage", str(output / "leakage.json"), "--max-leakage", str(allowed))
        console.say(f"to choose by it: atlas split-point {hint}")


def _two_worlds(file: Path, overrides: list[str], client: str, runs: int, as_json: bool) -> None:
    """Tell rounds with a client from rounds without it, by the merged adapter."""
    import json

    from atlas_cli.config.load import load_config, locating
    from atlas_cli.reports.terminal import Terminal

    loaded = load_config(file, overrides)
    with locating(loaded), Terminal(stderr=True).status("reading") as status:
        from atlas_cli.audit.epsilon_gap import EpsilonGap
        from atlas_cli.audit.two_worlds import two_worlds
        from atlas_cli.federation.build import build_for_audit
        from atlas_cli.reports.audit import worlds_table
        from atlas_cli.reports.progress import progress_for

        federation = build_for_audit(loaded.config)
        quiet = progress_for(Terminal(quiet=True))
        found = two_worlds(federation, client, runs, quiet, lambda done: status.update(f"run {done} of {3 * runs}"))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        Terminal().print(worlds_table(found))
        Terminal().say(EpsilonGap(**found["gap"]).in_words())
    EpsilonGap(**found["gap"]).require(f"--without {client}")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    from atlas_cli.errors import OutputError

    try:
        yield
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from None
