"""Codecs on real text: what they cost in accuracy or perplexity, and save in bytes and in time on a slow link.

    python benchmarks/compression.py                             all texts, three seeds: many hours on 2 cores
    python benchmarks/compression.py --texts quickstart --codecs "int4" "top-k 0.05" --output DIR
    python benchmarks/compression.py --seeds 1 --texts news training.rounds=1      shows that all works
    python benchmarks/compression.py --output DIR --write        and write docs/results/compression.md and its picture

Every client has an uplink of 10 Mbit/s. A codec has the seeds of the runs without one, and is held against them seed by
seed: a difference is of the last evaluation, with the interval of 95 % of Student's t. Bytes are of all rounds, set-up
left out. The target is what the runs without a codec reach in the end, less a point of accuracy, or 1 % more
perplexity. With ``--output`` runs are kept, and those that are there are not done again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from compare_aggregation import finished
from matplotlib.figure import Figure
from paired import paired

from atlas_cli.config.load import load_config
from atlas_cli.experiment.session import start
from atlas_cli.reports.plots import COLOURS, MARKERS, STYLE
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "docs" / "results" / "compression.md", ROOT / "docs" / "images" / "compression"
LINK = "{compute: 20 GFLOP/s, uplink: 10 Mbit/s, downlink: 50 Mbit/s, latency: 20 ms}"
PLAIN = "none"
SHARES = (2, 5, 10, 20, 50, 100)  # marks of the picture


class Text(NamedTuple):
    """A config, changes to it, and the score of its task groups: ``accuracy``, or ``perplexity``."""

    config: str
    overrides: tuple[str, ...]
    score: str


TEXTS: Mapping[str, Text] = {
    "quickstart": Text("configs/quickstart.yaml", (), "accuracy"),
    "news": Text("configs/compare-aggregation.yaml", ("evaluation.every=2",), "accuracy"),
    "language": Text("benchmarks/language.yaml", (), "perplexity"),
}


def codec(name: str, **options: object) -> dict[str, Any]:
    """As in a config."""
    return {"codec": name, **({"options": options} if options else {})}


def both(asked: dict[str, Any]) -> dict[str, Any]:
    """The same up and down."""
    return {"activations": asked, "gradients": asked}


def top_k(name: str, share: float) -> dict[str, Any]:
    """So many features of a token, up and down."""
    return both(codec(name, share=share, numbers="bfloat16"))


CODECS: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {},
    "bfloat16": both(codec("bfloat16")),
    "int8": both(codec("int8")),
    "int4": both(codec("int4")),
    "int4, a scale a token": both(codec("int4", block=None)),
    "nf4": both(codec("nf4")),
    "nf4, a scale a token": both(codec("nf4", block=None)),
    "top-k 0.2": top_k("top-k", 0.2),
    "top-k 0.05": top_k("top-k", 0.05),
    "random-top-k 0.2": top_k("random-top-k", 0.2),
    "random-top-k 0.05": top_k("random-top-k", 0.05),
    "low-rank 16": both(codec("low-rank", rank=16, bits=8)),
    "low-rank 4": both(codec("low-rank", rank=4, bits=8)),
    "vector-quantised 256": both(codec("vector-quantised", levels=256)),
    "vector-quantised 16": both(codec("vector-quantised", levels=16)),
    "delta int4": {"activations": codec("delta", codec="int4", first="int8"), "gradients": codec("int8")},
    "delta low-rank 8": {
        "activations": codec("delta", codec="low-rank", options={"rank": 8}, first="int4"),
        "gradients": codec("int4"),
    },
    "top-k 0.05, feedback": {
        "activations": codec("top-k", share=0.05, numbers="bfloat16"),
        "gradients": {**codec("top-k", share=0.05, numbers="bfloat16"), "feedback": True},
    },
}


class Evaluated(NamedTuple):
    """An evaluated round: the score, and bytes and virtual seconds until then."""

    score: float
    up: int
    down: int
    seconds: float


Curve = Sequence[Evaluated]


def run(text: Text, wire: Mapping[str, Any], seed: int, folder: Path, overrides: Sequence[str]) -> Curve:
    """Train once, or read the run of the same config that is in ``folder``."""
    file = ROOT / text.config
    named = load_config(file, text.overrides).config.clients
    changes = [*text.overrides, f"devices.link={LINK}", *(f"clients.{name}.device=link" for name in named)]
    changes += [f"wire={json.dumps(wire)}", f"seed={seed}", f"output.dir={folder}", *overrides]
    config = load_config(file, changes).config
    done = finished(folder, config) or start(config, PlainProgress(Terminal(quiet=True)))
    return list(evaluated(done.read_lines("metrics.jsonl"), text.score))


def evaluated(lines: Sequence[Any], score: str) -> Iterator[Evaluated]:
    """The evaluated rounds; the score is the mean over task groups."""
    up = down = 0
    seconds = 0.0
    for number, of_round in itertools.groupby(lines, lambda line: line["round"]):
        groups = list(of_round)
        if not number:  # the set-up
            continue
        up, down = up + sum(g["bytes_up"] for g in groups), down + sum(g["bytes_down"] for g in groups)
        seconds += groups[0]["simulated_seconds"] or 0.0  # of the round, whatever the group
        if scores := [group["test"][score] for group in groups if group["test"]]:
            yield Evaluated(statistics.fmean(scores), up, down, seconds)


def better(score: float, than: float, name: str) -> bool:
    """Whether a score is as good."""
    return score <= than if name == "perplexity" else score >= than


def target_of(plain: Sequence[Curve], name: str) -> float:
    """What is to be reached."""
    reached = statistics.fmean(curve[-1].score for curve in plain)
    return 1.01 * reached if name == "perplexity" else reached - 0.01


def loss_in_points(curve: Curve, plain: Curve, name: str) -> float:
    """By how much a run is worse: points of accuracy, or per cent of perplexity."""
    ours, theirs = curve[-1].score, plain[-1].score
    return 100 * math.log(ours / theirs) if name == "perplexity" else 100 * (theirs - ours)


class Row(NamedTuple):
    """The figures of a codec, means over seeds: shares are of the bytes without one; None: not reached by any."""

    codec: str
    score: float
    loss: float
    half: float | None
    up: float
    down: float
    reached: int
    megabytes: float | None
    seconds: float | None


def row(name: str, curves: Sequence[Curve], plain: Sequence[Curve], score: str, target: float) -> Row:
    """Against the runs without a codec, of the same seeds."""
    pairs = list(zip(curves, plain, strict=True))
    lost = paired([loss_in_points(one, other, score) for one, other in pairs], [0.0] * len(pairs))
    firsts = [next((each for each in curve if better(each.score, target, score)), None) for curve in curves]
    there = [first for first in firsts if first is not None]
    return Row(
        name,
        statistics.fmean(curve[-1].score for curve in curves),
        lost.mean,
        lost.half,
        statistics.fmean(one[-1].up / other[-1].up for one, other in pairs),
        statistics.fmean(one[-1].down / other[-1].down for one, other in pairs),
        len(there),
        statistics.fmean((each.up + each.down) / 1e6 for each in there) if there else None,
        statistics.fmean(each.seconds for each in there) if there else None,
    )


def table(rows: Sequence[Row], score: str, target: float, seeds: int) -> str:
    """In Markdown."""
    worse = "worse by, points" if score == "accuracy" else "worse by, %"
    heads = ["codec", score, worse, "up", "down", f"reached {target:.4g}", "MB to it", "virtual seconds to it"]
    lines = [heads, ["---"] * len(heads)]
    for each in rows:
        loss = f"{each.loss:.2f}" + (f" ± {each.half:.2f}" if each.half is not None else "")
        to_it = ["-" if value is None else f"{value:,.1f}" for value in (each.megabytes, each.seconds)]
        shares = f"{each.up:.1%}", f"{each.down:.1%}"
        lines.append([each.codec, f"{each.score:.4g}", loss, *shares, f"{each.reached} of {seeds}", *to_it])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw(path: Path, found: Mapping[str, Sequence[Row]]) -> None:
    """What is lost against the share of bytes, a panel for each of the texts, for light and for dark pages."""
    for scheme, ink in (("light", "#1f2933"), ("dark", "#e6ebf0")):
        colours = {f"{part}.color": ink for part in ("text", "xtick", "ytick")}
        with matplotlib.rc_context({**STYLE, **colours, "axes.edgecolor": ink, "axes.labelcolor": ink}):
            figure = Figure(figsize=(4 * len(found), 4.2), layout="constrained")
            for axes, (text, rows) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
                for i, each in enumerate(rows):
                    look = {"c": COLOURS[i % len(COLOURS)], "marker": MARKERS[i // len(COLOURS) % len(MARKERS)]}
                    axes.scatter([50 * (each.up + each.down)], [each.loss], label=each.codec, s=36, **look)
                axes.set(title=text, xlabel="% of the bytes, mean of up and down", xscale="log")
                axes.set_xticks(SHARES, [f"{share}" for share in SHARES])
                axes.set_xticks([], minor=True)
                axes.set_ylabel("worse by, points" if TEXTS[text].score == "accuracy" else "worse by, % of perplexity")
                axes.set_facecolor("none")
            handles = figure.axes[0].get_legend_handles_labels()
            figure.legend(*handles, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
            figure.savefig(path.with_name(f"{path.name}-{scheme}.svg"), transparent=True, metadata={"Date": None})


def page(tables: Mapping[str, str], seeds: int, overrides: Sequence[str]) -> str:
    """The results in Markdown."""
    changed = f" with {', '.join(overrides)}" if overrides else ""
    what = "Codecs up and down on real text"
    parts = [
        "# Codecs, measured\n",
        f"Written by `python benchmarks/compression.py --write`: {seeds} seeds{changed}, each codec against the runs "
        "of the same seeds without one, with intervals of 95 %. Shares are of all bytes but the set-up's. Every client "
        "has an uplink of 10 Mbit/s.\n",
        f"![{what}](../images/{PICTURE.name}-light.svg#only-light)\n"
        f"![{what}](../images/{PICTURE.name}-dark.svg#only-dark)\n",
    ]
    return "\n".join([*parts, *(f"## {text}: {TEXTS[text].config}\n\n{t}" for text, t in tables.items())])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison, and print a table for each of the texts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="changes to all configs, as key=value")
    parser.add_argument("--texts", nargs="+", choices=TEXTS, default=list(TEXTS))
    parser.add_argument("--codecs", nargs="+", choices=CODECS, default=list(CODECS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="where runs are kept")
    parser.add_argument("--picture", type=Path, help="draw PICTURE-light.svg and PICTURE-dark.svg")
    parser.add_argument("--write", action="store_true", help="write the page of results and its picture")
    given = parser.parse_intermixed_args(arguments)
    found, tables = dict[str, list[Row]](), dict[str, str]()
    kept = nullcontext(str(given.output)) if given.output is not None else tempfile.TemporaryDirectory()
    with kept as folder:
        for text in given.texts:
            asked, score = TEXTS[text], TEXTS[text].score
            names = [PLAIN, *(name for name in given.codecs if name != PLAIN)]
            curves = dict[str, list[Curve]]()
            for name in names:
                each = (run(asked, CODECS[name], seed, Path(folder), given.overrides) for seed in range(given.seeds))
                curves[name] = list(each)
                print(f"{text}: {name}: {curves[name][0][-1].score:.4g}", flush=True)
            target = target_of(curves[PLAIN], score)
            found[text] = [row(name, curves[name], curves[PLAIN], score, target) for name in names]
            tables[text] = table(found[text], score, target, given.seeds)
            print(f"\n{tables[text]}", flush=True)
    if given.picture is not None:
        draw(given.picture, found)
    if given.write:
        PAGE.write_text(page(tables, given.seeds, given.overrides), encoding="utf-8", newline="\n")
        draw(PICTURE, found)


if __name__ == "__main__":
    main()
