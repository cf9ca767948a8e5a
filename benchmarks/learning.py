"""How clients learn, on real weights and text: what each way costs a client, and what it reaches.

    python benchmarks/learning.py                            three seeds of configs/quickstart.yaml: hours on 2 cores
    python benchmarks/learning.py --seeds 1 --ways frozen --target 0.7
    python benchmarks/learning.py --seeds 1 training.rounds=1 training.local_steps=4     shows that all works
    python benchmarks/learning.py --write                    and write docs/results/learning.md, but for its text

Each way trains the same config, every client on a phone-6gib; overrides are for all ways alike. Accuracy is the mean
over task groups of the held-out test parts after the last round. The peak is the predicted one of the client that needs
most; FLOPs and MB are of all clients in all rounds, set-up left out; virtual seconds and joules are those until the
first evaluation whose accuracy is the target, for the seeds that reach it.
"""

from __future__ import annotations

import argparse
import itertools
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
from atlas_cli.reports.terminal import Terminal

ROOT = Path(__file__).parents[1]
CONFIG, PAGE, DEVICE = ROOT / "configs" / "quickstart.yaml", ROOT / "docs" / "results" / "learning.md", "phone-6gib"
WAYS: Mapping[str, Sequence[str]] = {
    "backprop": (),
    "auxiliary, h = 1": (),
    "auxiliary, h = 4": ("training.auxiliary.every=4",),
    "zeroth-order": (),
    "frozen": (),
}
INTRODUCTION = """# How clients learn, measured

What each way to [learn](../concepts/learning.md) costs a client, and what it reaches. Written by
`python benchmarks/learning.py --write`.

Conditions: {conditions}. Every client is a {device}. Accuracy is the mean over task groups of the held-out test parts
after the last round, mean and standard deviation over seeds. The peak is the predicted one of the client that needs
most; TFLOPs and MB are of all clients in all rounds, set-up left out; virtual seconds and joules are those until the
first evaluation with an accuracy of {target:g}, over the seeds that reach it.

"""
HEAD = (
    "| learns | accuracy | peak of a client, MiB | TFLOPs of clients | MB up | MB down | reached | virtual seconds to "
    "{target:g} | joules to {target:g} |"
)


class Outcome(NamedTuple):
    """One run; ``seconds`` and ``joules`` until the target, None where it was not reached."""

    accuracy: float
    peak: int
    flops: float
    up: int
    down: int
    seconds: float | None
    joules: float | None


def changes_of(way: str) -> list[str]:
    """The overrides with which every client learns so."""
    learns = way.partition(",")[0]
    each = [f"learns={learns}", f"device={DEVICE}", *(["rank=0"] if learns == "frozen" else [])]
    return [f"clients.{name}.{change}" for name in load_config(CONFIG, []).config.clients for change in each] + [
        *WAYS[way]
    ]


def run(way: str, seed: int, folder: Path, target: float, overrides: Sequence[str]) -> Outcome:
    """Train once."""
    changes = [*changes_of(way), f"seed={seed}", f"output.dir={folder}", *overrides]
    config = load_config(CONFIG, changes).config
    plan = make_plan(config)
    peak = max(memory.peak for memory in predict(plan, read_classes(plan)[0]).clients.values())
    done = start(config, PlainProgress(Terminal(quiet=True)))
    lines: list[Any] = done.read_lines("metrics.jsonl")
    clients: list[Any] = done.read_lines("clients.jsonl")
    rate = {name: device.compute or 0.0 for name, device in client_devices(config).items()}
    flops = sum(rate[line["client"]] * line["simulated"]["compute"] for line in clients if line["simulated"])
    seconds, joules = reached(lines, target)
    return Outcome(
        accuracy(lines, max(line["round"] for line in lines)) or 0.0,
        peak,
        flops,
        sum(line["bytes_up"] for line in lines if line["round"]),
        sum(line["bytes_down"] for line in lines if line["round"]),
        seconds,
        joules,
    )


def accuracy(lines: Sequence[Any], number: int) -> float | None:
    """The mean over task groups in a round; None where it was not evaluated."""
    found = [line["test"]["accuracy"] for line in lines if line["round"] == number and line["test"]]
    return statistics.mean(found) if found else None


def reached(lines: Sequence[Any], target: float) -> tuple[float | None, float | None]:
    """Virtual seconds and joules up to the first evaluation with the target; None where there is none."""
    seconds = joules = 0.0
    for number, of_round in itertools.groupby(lines, lambda line: line["round"]):
        first = next(of_round)  # both are of the round, whatever the group
        seconds, joules = seconds + (first["simulated_seconds"] or 0.0), joules + (first["simulated_joules"] or 0.0)
        if number and (accuracy(lines, number) or 0.0) >= target:
            return seconds, joules
    return None, None


def row_of(way: str, runs: Sequence[Outcome]) -> str:
    """A row of the table."""
    scores, there = [r.accuracy for r in runs], [r for r in runs if r.seconds is not None]
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


def with_text_of(before: str, page: str) -> str:
    """A new page with the sections below the table of the one before, which are written by hand."""
    return page + "".join(before.partition("\n## ")[1:])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison, print a Markdown table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="changes to the config, as key=value")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--target", type=float, default=0.75, help="accuracy, the mean over task groups")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    given = parser.parse_intermixed_args(arguments)
    head = HEAD.format(target=given.target)
    table = [head, "| --- " * (head.count(" |")) + "|"]
    print("\n".join(table), flush=True)
    for way in given.ways:
        with tempfile.TemporaryDirectory() as folder:
            runs = [run(way, seed, Path(folder), given.target, given.overrides) for seed in range(given.seeds)]
        table.append(row_of(way, runs))
        print(table[-1], flush=True)
    if given.write:
        changed = f" with {', '.join(given.overrides)}" if given.overrides else ""
        seeds = f"{given.seeds} seed{'s' if given.seeds > 1 else ''}"
        conditions = f"configs/quickstart.yaml{changed}, {seeds}, {os.cpu_count()} CPU cores, torch {torch.__version__}"
        text = INTRODUCTION.format(conditions=conditions, device=DEVICE, target=given.target) + "\n".join(table) + "\n"
        before = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
        PAGE.write_text(with_text_of(before, text), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
