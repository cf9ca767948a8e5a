"""``atlas plan``: all settings of a config together, and which candidates none is better than."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from atlas_cli.cli._arguments import ConfigFile, Json, Overrides
from atlas_cli.printable import as_typed

if TYPE_CHECKING:
    from atlas_cli.config.load import LoadedConfig
    from atlas_cli.planning.joint.search import Found, Search
    from atlas_cli.planning.joint.space import Ranges

SECTION = "Plan and check"
EXAMPLES = (
    "atlas plan experiment.yaml",
    "atlas plan experiment.yaml --minimise time --subject-to 'memory<=512 MiB' --write planned.yaml",
    "atlas plan experiment.yaml --ranks 4,8,16 --quantizations none,nf4 --minimise energy --plot front.svg",
)
DRAWN = {
    "seconds": "seconds a round",
    "joules": "joules a round",
    "MB": "MB a round",
    "leakage": "leakage, mean over clients",
}
OTHER = "another --write"
CHOOSE, GIVEN, FROM = "Choose one", "What may be chosen", "What is known"


def command(
    file: ConfigFile,
    overrides: Overrides = None,
    minimise: Annotated[
        str | None,
        typer.Option(rich_help_panel=CHOOSE, metavar="FIGURE", help="time, energy, bytes, memory, leakage or changes."),
    ] = None,
    subject_to: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=CHOOSE,
            metavar="LIMIT",
            help="A limit on one of these figures, e.g. 'memory<=512 MiB'; once for each.",
        ),
    ] = None,
    cuts: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=GIVEN,
            metavar="LAYERS",
            help="Split layers, e.g. 2-6 or 2,4,6; default: all, of a deep model 16 spread over it.",
            show_default=False,
        ),
    ] = None,
    one_cut: Annotated[
        bool, typer.Option("--one-cut", rich_help_panel=GIVEN, help="All clients have the same split layer.")
    ] = False,
    checkpointing: Annotated[
        str, typer.Option(rich_help_panel=GIVEN, metavar="LIST", help="Of clients: false, true.")
    ] = "false,true",
    embeddings: Annotated[
        str, typer.Option(rich_help_panel=GIVEN, metavar="LIST", help="Of clients: table, rows.")
    ] = "table,rows",
    ranks: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=GIVEN,
            metavar="LIST",
            help="Of clients, e.g. 4,8,16; without it, the file's.",
            show_default=False,
        ),
    ] = None,
    learns: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=GIVEN,
            metavar="LIST",
            help="Of clients: backprop, auxiliary, zeroth-order, frozen; without it, the file's.",
            show_default=False,
        ),
    ] = None,
    dtypes: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=GIVEN,
            metavar="LIST",
            help="Of clients: float32, bfloat16; without it, the file's.",
            show_default=False,
        ),
    ] = None,
    quantizations: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=GIVEN,
            metavar="LIST",
            help="Of clients: none, int8, nf4, nf4-double; without it, the file's.",
            show_default=False,
        ),
    ] = None,
    batch_sizes: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=GIVEN,
            metavar="LIST",
            help="Of training.batch_size; without it, the file's.",
            show_default=False,
        ),
    ] = None,
    codecs: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=GIVEN,
            metavar="LIST",
            help="Of wire.activations and wire.gradients, e.g. none,int8,int4; without it, the file's.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        Literal["device", "client"],
        typer.Option(
            rich_help_panel=GIVEN, help="Who shares a choice: clients of a device, or of an entry of clients."
        ),
    ] = "device",
    leakage: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=FROM,
            metavar="FILE",
            help='JSON, what an attack recovers: {"layer": {"1": 0.99}, "attack", "source"}.',
        ),
    ] = None,
    write: Annotated[
        Path | None, typer.Option(metavar="NEW", help="Write the config of the chosen candidate to a new file.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw the candidates (.png or .svg).")] = None,
    as_json: Json = False,
) -> None:
    """Search settings of FILE together, and show those that no others are better than in memory, seconds, joules and
    bytes of a round, leakage, and how little they change what is learned.

    Each kind of device gets settings of its own. Split layers, checkpointing and embeddings by the row are searched as
    they change no number that a client computes. Ranks, how clients learn, number types, batches and codecs may change
    what is learned, which no prediction tells: they stay as FILE has them unless you list others. No weights are
    loaded.
    """
    from atlas_cli.cli._imports import without_collecting
    from atlas_cli.errors import ConfigError

    with without_collecting():
        from atlas_cli.config.load import load_config, locating
        from atlas_cli.planning.cuts.leakage import read_leakage
        from atlas_cli.planning.joint.limits import choose, limit_of, nothing_fits
        from atlas_cli.planning.joint.prepare import prepare
        from atlas_cli.reports.memory_picture import check_name
        from atlas_cli.reports.terminal import busy
        from atlas_cli.storage.new_file import require_free

    limits = [limit_of(text) for text in subject_to or []]
    if minimise is None and (limits or write is not None):
        raise ConfigError("needs --minimise, which says what to choose by", key="--subject-to" if limits else "--write")
    if write is not None:
        require_free(write, OTHER)
    if plot is not None:
        check_name(plot)
    clients = {"checkpointing": checkpointing, "embedding": embeddings}
    clients |= {
        key: text
        for key, text in (("rank", ranks), ("learns", learns), ("dtype", dtypes), ("quantization", quantizations))
        if text
    }
    ranges = replace(_ranges(cuts, batch_sizes, codecs, clients), one_cut=one_cut)
    known = read_leakage(leakage) if leakage is not None else None
    loaded = load_config(file, overrides or [])
    with locating(loaded), busy(f"planning {file}"):
        search, notes = prepare(loaded.config, ranges, by, known)
        front = search.front()
    if not front:
        raise nothing_fits(search.too_large())
    chosen = None if minimise is None else front.index(choose(front, minimise, limits))
    notes = [*notes, *_notes(search, ranges)]
    if plot is not None:
        _draw(plot, search, front, chosen)
    kept = _write(write, loaded, search, front[chosen]) if write is not None and chosen is not None else False
    _show(search, front, chosen, notes, as_json)
    if as_json:
        return
    if write is None:
        goal = "memory" if any(found.figures.seconds is None for found in front) else "time"
        choosing = "--write NEW.yaml" if chosen is not None else f"--minimise {goal} --write NEW.yaml chooses one and"
        typer.echo(f"next: {choosing} writes its config")
        return
    comments = "" if kept else " (all keys are written out, without the file's comments)"
    typer.echo(f"wrote {write}{comments}; next: atlas train {as_typed(str(write))}")


def _show(search: Search, front: list[Found], chosen: int | None, notes: list[str], as_json: bool) -> None:
    from atlas_cli.cli._tables.plans import plan_record, plan_table, settings_text
    from atlas_cli.reports.terminal import Terminal

    if as_json:
        record: dict[str, Any] = {
            "candidates": search.size,
            "front": [plan_record(search, found) for found in front],
            "chosen": chosen,
            "kinds": {kind.name: kind.clients for kind in search.kinds},
            "notes": notes,
        }
        typer.echo(json.dumps(record, indent=2))
        return
    console = Terminal()
    console.print(plan_table(search, front, chosen, console.width))
    for note in notes:
        console.say(f"note: {note}", style="italic")
    console.say(f"{len(front)} of {search.size:,} candidates are on the front")
    if chosen is not None:
        found = front[chosen]
        cuts = " and ".join(map(str, found.candidate.cuts))
        console.say(f"chosen: split layer {cuts}; {settings_text(search, found.candidate)}")


def _notes(search: Search, ranges: Ranges) -> list[str]:
    from atlas_cli.config.schema.wire import CodecConfig
    from atlas_cli.planning.devices.clock_notes import clock_notes
    from atlas_cli.planning.memory_assumptions import unpredicted

    config, training = search.config, search.config.training
    if coded := [codec for codec in ranges.codecs if codec != "none"]:
        wire = config.wire.model_copy(update={"activations": CodecConfig(codec=coded[0])})
        config = config.model_copy(update={"wire": wire})
    notes = [
        f"a round in which all {sum(kind.clients for kind in search.kinds):,} clients take part, in full batches of "
        f"examples of {training.max_length} tokens"
    ]
    if search.leakage is None:
        notes.append("no leakage is known (--leakage): more blocks on a client, which leak no more, count as better")
    else:
        notes.append(f"leakage: {search.leakage.attack} ({search.leakage.source})")
    if not search.exact:
        notes.append("candidates less than 1 % better than one that is shown in each figure may have been left out")
    if training.deadline is not None:
        notes.append("training.deadline is not looked at: nobody is dropped")
    if config.faults.drop or config.faults.crash_at:
        notes.append("faults.drop and faults.crash_at are not looked at: nobody fails")
    return [*notes, *clock_notes(config), *unpredicted(config)]


def _ranges(cuts: str | None, batches: str | None, codecs: str | None, clients: dict[str, str]) -> Ranges:
    """The values that may be chosen, from the texts of options."""
    from atlas_cli.planning.joint.listed import codecs as known_codecs
    from atlas_cli.planning.joint.listed import layers, numbers, words
    from atlas_cli.planning.joint.space import Ranges

    chosen = {key: numbers(text, "--ranks") if key == "rank" else words(text, key) for key, text in clients.items()}
    return Ranges(
        cuts=() if cuts is None else layers(cuts, "--cuts"),
        batches=() if batches is None else numbers(batches, "--batch-sizes"),
        codecs=() if codecs is None else known_codecs(codecs, "--codecs"),
        clients=chosen,
    )


def _draw(path: Path, search: Search, front: list[Found], chosen: int | None) -> None:
    from atlas_cli.cli._tables.plans import FIGURES
    from atlas_cli.reports.front_picture import draw_front

    blocks = [found.figures.blocks for found in front]
    across, figures = [], dict[str, list[float]]()
    for found in front:
        across.append(FIGURES["MiB"](found.figures) or 0.0)
        for name, label in DRAWN.items():
            if (value := FIGURES[name](found.figures)) is not None:
                figures.setdefault(label, []).append(value)
    if search.leakage is None:
        figures["blocks on a client, mean"] = blocks
    draw_front(path, across, figures, blocks, chosen, f"{search.config.name}: candidates that none is better than")


def _write(path: Path, loaded: LoadedConfig, search: Search, found: Found) -> bool:
    """Write the config to a new file; whether the file's comments are kept."""
    from atlas_cli.planning.joint.written import written
    from atlas_cli.storage.new_file import write_new

    settings = dict(found.candidate.settings(search.config, search.kinds))
    text, kept = written(loaded.path.read_text(encoding="utf-8"), search.config, settings, path)
    write_new(path, text, OTHER)
    return kept
