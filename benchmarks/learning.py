"""How clients learn, on real weights and text: what each way costs a client, and what it reaches.

    python benchmarks/learning.py                            three seeds of configs/quickstart.yaml: hours on 2 cores
    python benchmarks/learning.py --seeds 1 --ways frozen --target 0.7
    python benchmarks/learning.py --seeds 1 training.rounds=1 training.local_steps=4     shows that all works
    python benchmarks/learning.py --config benchmarks/language.yaml --target 38           perplexity of news
    python benchmarks/learning.py --write                    and write the config's table into docs/results/learning.md

Each way trains the same config, every client on a phone-6gib; overrides are for all ways alike. The score is the mean
over task groups of the primary metric on the held-out test parts after the last round. The peak is the predicted one of
the client that needs most; FLOPs and MB are of all clients in all rounds, set-up left out; virtual seconds and joules
are those until the first evaluation that is as good as the target, for the seeds that reach it.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from atlas_cli.config.load import load_config
from atlas_cli.experiment.session import start
from atlas_cli.planning.devices.devices import client_devices
from atlas_cli.planning.memory_assumptions import read_classes
from atlas_cli.planning.memory_of_plan import predict
from atlas_cli.planning.plan import make_plan
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.summary import is_better
from atlas_cli.reports.terminal import Terminal

ROOT = Path(__file__).parents[1]
CONFIG, PAGE, DEVICE = "configs/quickstart.yaml", ROOT / "docs" / "results" / "learning.md", "phone-6gib"
WAYS: Mapping[str, Sequence[str]] = {
    "backprop": (),
    "auxiliary, h = 1": (),
    "auxiliary, h = 4": ("training.auxiliary.every=4",),
    "zeroth-order": (),
    "frozen": (),
}
HEAD = (
    "| learns | {metric} | peak of a client, MiB | TFLOPs of clients | MB up | MB down | reached | virtual seconds to "
    "{target:g} | joules to {target:g} |"
)


class Outcome(NamedTuple):
    """One run; ``seconds`` and ``joules`` until the target, None where it was not reached."""

    metric: str
    score: float
    peak: int
    flops: float
    up: int
    down: int
    seconds: float | None
    joules: float | None


def changes_of(way: str, path: Path) -> list[str]:
    """The overrides with which every client learns so."""
    learns = way.partition(",")[0]
    each = [f"learns={learns}", f"device={DEVICE}", *(["rank=0"] if learns == "frozen" else [])]
    clients = load_config(path, []).config.clients
    return [*(f"clients.{name}.{change}" for name in clients for change in each), *WAYS[way]]


def run(path: Path, way: str, target: float, changes: Sequence[str]) -> Outcome:
    """Train once."""
    config = load_config(path, [*changes_of(way, path), *changes]).config
    plan = make_plan(config)
    peak = max(memory.peak for memory in predict(plan, read_classes(plan)[0]).clients.values())
    done = start(config, PlainProgress(Terminal(quiet=True)))
    lines: list[Any] = done.read_lines("metrics.jsonl")
    clients: list[Any] = done.read_lines("clients.jsonl")
    rate = {name: device.compute or 0.0 for name, device in client_devices(config).items()}
    flops = sum(rate[line["client"]] * line["simulated"]["compute"] for line in clients if line["simulated"])
    seconds, joules = reached(lines, target)
    score = score_of(lines, max(line["round"] for line in lines))
    return Outcome(
        lines[0]["metric"],
        math.nan if score is None else score,
        peak,
        flops,
        sum(line["bytes_up"] for line in lines if line["round"]),
        sum(line["bytes_down"] for line in lines if line["round"]),
        seconds,
        joules,
    )


def score_of(lines: Sequence[Any], number: int) -> float | None:
    """The mean over task groups of the primary metric in a round; None where it was not evaluated."""
    found = [line["test"][line["metric"]] for line in lines if line["round"] == number and line["test"]]
    return statistics.mean(found) if found else None


def reached(lines: Sequence[Any], target: float) -> tuple[float | None, float | None]:
    """Virtual seconds and joules up to the first evaluation with the target; None where there is none."""
    seconds = joules = 0.0
    for number, of_round in itertools.groupby(lines, lambda line: line["round"]):
        first = next(of_round)  # both are of the round, whatever the group
        seconds, joules = seconds + (first["simulated_seconds"] or 0.0), joules + (first["simulated_joules"] or 0.0)
        score = score_of(lines, number)
        if number and score is not None and not is_better(target, score, first["better"]):
            return seconds, joules
    return None, None


def row_of(way: str, runs: Sequence[Outcome]) -> str:
    """A row of the table."""
    scores, there = [r.score for r in runs], [r for r in runs if r.seconds is not None]
    deviation = f" +- {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""

    def until(values: Sequence[float | None]) -> str:
        known = [value for value in values if value is not None]
        return f"{statistics.mean(known):,.1f}" if known else "-"

    cells = (
        way,
        f"{statistics.mean(scores):.3f}{deviation}",
        f"{max(r.peak for r in runs) / 2**20:.1f}",
        f"{statistics.mean(r.flops for r in runs) / 1e12:.2f}",
        f"{statistics.mean(r.up for r in runs) / 1e6:,.1f}",
        f"{statistics.mean(r.down for r in runs) / 1e6:,.1f}",
        f"{len(there)} of {len(runs)}",
        until([r.seconds for r in there]),
        until([r.joules for r in there]),
    )
    return f"| {' | '.join(cells)} |"


def with_table(page: str, name: str, table: str) -> str:
    """A page with the table of that name in place of the one before, or at its end; what is around it stays."""
    start, end = f"<!-- written: {name} -->\n", "<!-- end -->\n"
    above, found, rest = page.partition(start)
    below = rest.partition(end)[2]
    return f"{above if found else above + chr(10)}{start}\n{table}\n{end}{below}"


def conditions(given: argparse.Namespace) -> str:
    """Under what a table was measured."""
    changed = f" with {', '.join(given.overrides)}" if given.overrides else ""
    seeds = f"{given.seeds} seed{'s' if given.seeds > 1 else ''}"
    return f"Conditions: {given.config}{changed}, {seeds}, {os.cpu_count()} CPU cores, torch {torch.__version__}."


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison, print a Markdown table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="changes to the config, as key=value")
    parser.add_argument("--config", default=CONFIG, help=f"below the repository's root ({CONFIG})")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--target", type=float, default=0.75, help="primary metric, the mean over task groups (0.75)")
    parser.add_argument("--write", action="store_true", help=f"write into {PAGE.relative_to(ROOT)}")
    given = parser.parse_intermixed_args(arguments)
    table: list[str] = []
    for way in given.ways:
        with tempfile.TemporaryDirectory() as folder:
            changes = [f"output.dir={folder}", *given.overrides]
            seeds = range(given.seeds)
            runs = [run(ROOT / given.config, way, given.target, [f"seed={seed}", *changes]) for seed in seeds]
        if not table:
            head = HEAD.format(metric=runs[0].metric, target=given.target)
            table = [head, "| --- " * (head.count(" |")) + "|"]
            print("\n".join(table), flush=True)
        table.append(row_of(way, runs))
        print(table[-1], flush=True)
    if given.write:
        text = "\n".join([conditions(given), "", *table, ""])
        page = with_table(PAGE.read_text(encoding="utf-8"), given.config, text)
        PAGE.write_text(page, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
