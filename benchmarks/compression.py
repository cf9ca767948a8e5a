"""Codecs on real text: what they cost in accuracy or perplexity, and save in bytes and in time on a slow link.

    python benchmarks/compression.py                             all texts, three seeds: many hours on 2 cores
    python benchmarks/compression.py --texts quickstart --codecs "int4" "top-k 0.05" --output DIR
    python benchmarks/compression.py --seeds 1 --texts news training.rounds=1      shows that all works
    python benchmarks/compression.py --output DIR --write        and write docs/results/compression.md and its picture
    python benchmarks/compression.py --write --texts language    with the other texts as they are on record

Every client has an uplink of 10 Mbit/s. A codec has the seeds of the runs without one, and is held against them seed by
seed: a difference is of the last evaluation, with the interval of 95 % of Student's t. Bytes are of all rounds, set-up
left out. The target is what the runs without a codec reach in the end, less a point of accuracy, or 1 % more
perplexity. With ``--output`` runs are kept, and those that are there are not done again. ``--write`` adds curves to
benchmarks/compression.json, does not do again what is there, and writes the page from all of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from compare_aggregation import finished
from compression_page import (
    PAGE,
    PICTURE,
    PLAIN,
    Curve,
    Evaluated,
    Record,
    draw,
    page,
    read,
    rows,
    table,
    target_of,
    write,
)
from published.records import conditions

from atlas_cli.config.load import load_config
from atlas_cli.experiment.session import start
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal

ROOT = Path(__file__).parents[1]
LINK = "{compute: 20 GFLOP/s, uplink: 10 Mbit/s, downlink: 50 Mbit/s, latency: 20 ms}"


class Text(NamedTuple):
    """A config, changes to it, and the score of its task groups: ``accuracy``, or ``perplexity``."""

    config: str
    overrides: tuple[str, ...]
    score: str


# four clients, one of each rank, with 1,600 texts
NEWS = (
    *(f"clients.{name}.count=1" for name in ("tiny", "small", "middle", "large")),
    *("task_groups.news.data.limit=1600", "task_groups.news.data.test_limit=300"),
    *("training.batch_size=8", "training.max_length=48"),
)
# two clients, of rank 16 and 4
LANGUAGE = (
    *(f"clients.{name}.count=1" for name in ("desktop", "phone")),
    *("task_groups.news.data.limit=120", "task_groups.news.data.test_limit=12"),
    *("training.rounds=4", "training.local_steps=3", "training.max_length=48", "evaluation.every=2"),
)
TEXTS: Mapping[str, Text] = {
    "quickstart": Text("configs/quickstart.yaml", (), "accuracy"),
    "news": Text("configs/compare-aggregation.yaml", NEWS, "accuracy"),
    "language": Text("benchmarks/language.yaml", LANGUAGE, "perplexity"),
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


def within(up: dict[str, Any]) -> dict[str, Any]:
    """Gradients as int4 with a scale a token, and adapters and deliveries as int8."""
    down, parameters = codec("int4", block=None), codec("int8")
    return {"activations": up, "gradients": down, "adapters": parameters, "deliveries": parameters}


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
    # at most 8 % of the bytes up and 15 % of those down: adapters count, too
    "vector-quantised 256 up, int4 down": within(codec("vector-quantised", levels=256)),
    "top-k 0.09 up, int4 down": within(codec("top-k", share=0.09, numbers="bfloat16")),
    "low-rank 8 up, int4 down": within(codec("low-rank", rank=8, bits=8)),
}


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


def wanted(record: Record, codecs: Sequence[str], seeds: int) -> list[tuple[str, int]]:
    """The runs that are not on record, a seed after another, so that those of a seed are of one time."""
    names = [PLAIN, *(name for name in codecs if name != PLAIN)]
    return [(name, seed) for seed in range(seeds) for name in names if len(record.curves.get(name, ())) <= seed]


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
    records = read() if given.write else {}
    kept = nullcontext(str(given.output)) if given.output is not None else tempfile.TemporaryDirectory()
    with kept as folder:
        for text in given.texts:
            asked = TEXTS[text]
            record = Record(asked.config, [*asked.overrides, *given.overrides], asked.score)
            if text in records and records[text].is_of(record):
                record = records[text]
            records[text] = record
            missing = wanted(record, given.codecs, given.seeds)
            if missing:
                record.conditions.append(conditions())
            for name, seed in missing:
                record.curves.setdefault(name, []).append(run(asked, CODECS[name], seed, Path(folder), given.overrides))
                print(f"{text}: {name}, seed {seed}: {record.curves[name][-1][-1].score:.4g}", flush=True)
                if given.write:
                    write(records)
            target = target_of(record.curves[PLAIN], asked.score)
            print(f"\n{table(rows(record), asked.score, target)}", flush=True)
    if given.picture is not None or given.write:
        found = {text: rows(record) for text, record in records.items()}
        scores = {text: record.score for text, record in records.items()}
        draw(PICTURE if given.write else given.picture, found, scores)
    if given.write:
        PAGE.write_text(page(records, CODECS), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
