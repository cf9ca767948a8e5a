"""The page of codecs: what runs with and without one came to, from curves on record, as tables and a picture."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import yaml
from matplotlib.figure import Figure
from paired import paired

from atlas_cli.reports.plots import COLOURS, MARKERS, STYLE

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "compression.json"
PAGE, PICTURE = ROOT / "docs" / "results" / "compression.md", ROOT / "docs" / "images" / "compression"
PLAIN = "none"
SHARES = (2, 5, 10, 20, 50, 100)  # marks of the picture


class Evaluated(NamedTuple):
    """An evaluated round: the score, and bytes and virtual seconds until then."""

    score: float
    up: int
    down: int
    seconds: float


Curve = Sequence[Evaluated]


@dataclass(frozen=True)
class Record:
    """The runs of a text.

    Attributes:
        config: its file, from the root of the repository.
        overrides: changes to it, as key=value.
        score: ``accuracy``, or ``perplexity``.
        conditions: date, commit, versions and processor, for each time that runs were added.
        curves: by codec, those of seeds 0, 1 and so on; without a codec by the name ``none``.
    """

    config: str
    overrides: list[str]
    score: str
    conditions: list[Mapping[str, Any]] = field(default_factory=list)
    curves: dict[str, list[Curve]] = field(default_factory=dict)

    def is_of(self, other: Record) -> bool:
        """Whether the runs of both are of one config."""
        return (self.config, self.overrides) == (other.config, other.overrides)


def read(path: Path = RECORDS) -> dict[str, Record]:
    """The records by text; none where the file is not there yet."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {text: _record(**record) for text, record in found.items()}


def _record(curves: Mapping[str, Any], **others: Any) -> Record:
    curves = {codec: [[Evaluated(*each) for each in curve] for curve in runs] for codec, runs in curves.items()}
    return Record(curves=curves, **others)


def write(records: Mapping[str, Record], path: Path = RECORDS) -> None:
    """Replace the file."""
    plain = {text: asdict(record) for text, record in records.items()}
    path.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8", newline="\n")


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
    seeds: int
    megabytes: float | None
    seconds: float | None


def row(name: str, curves: Sequence[Curve], plain: Sequence[Curve], score: str, target: float) -> Row:
    """Against the runs without a codec, of the same seeds."""
    pairs = list(zip(curves, plain[: len(curves)], strict=True))
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
        len(curves),
        statistics.fmean((each.up + each.down) / 1e6 for each in there) if there else None,
        statistics.fmean(each.seconds for each in there) if there else None,
    )


def rows(record: Record) -> list[Row]:
    """Those of a text, in the order in which codecs are on record."""
    plain = record.curves[PLAIN]
    target = target_of(plain, record.score)
    return [row(name, curves, plain, record.score, target) for name, curves in record.curves.items()]


def table(found: Sequence[Row], score: str, target: float) -> str:
    """In Markdown."""
    worse = "worse by, points" if score == "accuracy" else "worse by, %"
    heads = ["codec", score, worse, "up", "down", f"reached {target:.4g}", "MB to it", "virtual seconds to it"]
    lines = [heads, ["---"] * len(heads)]
    for each in found:
        loss = f"{each.loss:.2f}" + (f" ± {each.half:.2f}" if each.half is not None else "")
        loss = "-" if each.codec == PLAIN else loss
        to_it = ["-" if value is None else f"{value:,.1f}" for value in (each.megabytes, each.seconds)]
        shares = f"{each.up:.1%}", f"{each.down:.1%}"
        lines.append([each.codec, f"{each.score:.4g}", loss, *shares, f"{each.reached} of {each.seeds}", *to_it])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw(path: Path, found: Mapping[str, Sequence[Row]], scores: Mapping[str, str]) -> None:
    """What is lost against the share of bytes, a panel for each of the texts, for light and for dark pages."""
    names = list(dict.fromkeys(each.codec for one in found.values() for each in one))
    looks = {
        name: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i // len(COLOURS) % len(MARKERS)]}
        for i, name in enumerate(names)
    }
    for scheme, ink in (("light", "#1f2933"), ("dark", "#e6ebf0")):
        colours = {f"{part}.color": ink for part in ("text", "xtick", "ytick")}
        with matplotlib.rc_context({**STYLE, **colours, "axes.edgecolor": ink, "axes.labelcolor": ink}):
            figure = Figure(figsize=(max(7, 4 * len(found)), 5), layout="constrained")
            handles = {}
            for axes, (text, of_text) in zip(
                figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True
            ):
                for each in of_text:
                    at = [50 * (each.up + each.down)], [each.loss]
                    look = {**looks[each.codec], "markersize": 6, "linestyle": "none", "elinewidth": 0.8}
                    handles[each.codec] = axes.errorbar(*at, yerr=[each.half or 0.0], label=each.codec, **look)
                axes.axhline(0, color=ink, linewidth=0.6, zorder=0)
                axes.set(title=text, xlabel="% of the bytes, mean of up and down", xscale="log")
                axes.set_xticks(SHARES, [f"{share}" for share in SHARES])
                axes.set_xticks([], minor=True)
                axes.set_ylabel("worse by, points" if scores[text] == "accuracy" else "worse by, % of perplexity")
                axes.set_facecolor("none")
            figure.legend(
                [handles[name] for name in names],
                names,
                loc="outside lower center",
                ncols=max(2, len(found)),
                frameon=False,
                fontsize=8,
            )
            figure.savefig(path.with_name(f"{path.name}-{scheme}.svg"), transparent=True, metadata={"Date": None})


def dated(conditions: Mapping[str, Any]) -> str:
    """In words."""
    versions = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    return f"{conditions['date']}, {versions}"


def page(records: Mapping[str, Record], codecs: Mapping[str, Mapping[str, Any]]) -> str:
    """The results in Markdown; ``codecs`` are the sections ``wire`` by name."""
    what = "What codecs lose against their share of the bytes"
    parts = [
        "# Codecs, measured\n",
        "Written by `python benchmarks/compression.py --write` from benchmarks/compression.json: [codecs](../concepts/"
        "wire.md) against the runs of the same seeds without one, with intervals of 95 % (Student's t over seeds). "
        "Shares are of all bytes, adapters and all, but the set-up's. Every client has an uplink of 10 Mbit/s and a "
        "downlink of 50. The target is what the runs without a codec end with, less a point of accuracy, or 1 % more "
        "perplexity. A row without an interval is of one seed.\n",
        f"![{what}](../images/{PICTURE.name}-light.svg#only-light)\n"
        f"![{what}](../images/{PICTURE.name}-dark.svg#only-dark)\n",
    ]
    for text, record in records.items():
        changed = f" with {', '.join(f'`{each}`' for each in record.overrides)}" if record.overrides else ""
        under = f"{record.config}{changed}; {'; '.join(dict.fromkeys(map(dated, record.conditions)))}."
        target = target_of(record.curves[PLAIN], record.score)
        parts.append(f"## {text}\n\n{under}\n\n{table(rows(record), record.score, target)}")
        if unkept := never_used(record, codecs):
            parts.append(
                f"No text was sent twice here, so that {' and '.join(unkept)} had nothing of a text to go on from: "
                "they say what a first sending costs.\n"
            )
    measured = dict.fromkeys(name for record in records.values() for name in record.curves if name != PLAIN)
    settings = "".join(f"- {name}: `wire: {_flow(codecs[name])}`\n" for name in measured)
    return "\n".join([*parts, f"## What they are\n\n{settings}"])


def never_used(record: Record, codecs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The codecs that keep something of a text, and trained exactly as one that keeps nothing."""
    scores = {name: [[each.score for each in curve] for curve in curves] for name, curves in record.curves.items()}
    keeping = [name for name in scores if any(_keeps(asked) for asked in codecs[name].values())]
    others = [scores[name] for name in scores if name not in keeping]
    return [name for name in keeping if scores[name] in others]


def _keeps(asked: Mapping[str, Any]) -> bool:
    return asked["codec"] == "delta" or bool(asked.get("feedback"))


def _flow(wire: Mapping[str, Any]) -> str:
    """In a line of YAML."""
    wire = json.loads(json.dumps(wire))  # no part is in it twice, of which YAML would make a reference
    return yaml.safe_dump(wire, default_flow_style=True, sort_keys=False, width=10_000).strip()
