"""What quantised frozen weights cost in accuracy, on real weights and text.

    python benchmarks/quantization.py                       three seeds of both configs: hours on 2 cores
    python benchmarks/quantization.py --configs quickstart --seeds 1
    python benchmarks/quantization.py --configs quickstart --seeds 1 training.rounds=1 training.local_steps=1
    python benchmarks/quantization.py --write               and write docs/results/quantization.md

Each config is trained with ``model.quantization`` none, int8, nf4 and nf4-double: clients and server hold the blocks'
linear layers so. The figure is that of the held-out test part after the last round, the mean over task groups, once on
the quantised weights that were trained on, and once with the adapters merged into the base's own weights, as they are
exported. Differences are from the same seed without quantisation.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from atlas_cli.config.load import load_config
from atlas_cli.experiment.session import start
from atlas_cli.inference.loaded_model import open_model
from atlas_cli.inference.merged import MergedEvaluator
from atlas_cli.inference.scored_parts import part_of_run
from atlas_cli.inference.scoring import score
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results" / "quantization.md"
WEIGHTS = ("none", "int8", "nf4", "nf4-double")
FIGURES = {"quickstart": "accuracy", "gemma3-instruct": "perplexity"}
INTRODUCTION = """# Quantised weights, measured

What [frozen weights in 4 or 8 bits](../concepts/quantization.md) cost in accuracy. Written by
`python benchmarks/quantization.py --write`.

Conditions: {conditions}. Clients and server hold the blocks' linear layers so (`model.quantization`). The figure is
that of the held-out test part after the last round, the mean over task groups: on the quantised weights that were
trained on, and with the adapters merged into the base's own weights, as they are exported. Mean and standard deviation
over seeds; differences are of the same seed. Rounding is the largest difference of a quantised weight from the base's.

"""
HEAD = (
    "| config | weights | largest client's frozen weights, MiB | rounding | figure | trained weights | against none | "
    "merged into the base | against none |"
)


class Outcome(NamedTuple):
    """The end of one run; ``merged``: the figure on the base's own weights."""

    figure: float
    merged: float
    frozen_bytes: int
    rounding: float


def run(name: str, quantization: str, seed: int, folder: Path, overrides: Sequence[str]) -> Outcome:
    """Train once, and score the models of all task groups."""
    changes = [f"model.quantization={quantization}", f"seed={seed}", f"output.dir={folder}", *overrides]
    done = start(load_config(ROOT / "configs" / f"{name}.yaml", changes).config, PlainProgress(Terminal(quiet=True)))
    lines: list[Any] = done.read_lines("metrics.jsonl")
    last = {line["task_group"]: line["test"][FIGURES[name]] for line in lines if line["round"] == lines[-1]["round"]}
    checks = done.read_json("manifest.json")["verify"].values()
    held = done.read_json("memory.json")["clients"].values()
    merged = list(last.values()) if quantization == "none" else [_merged(done.path, name, group) for group in last]
    return Outcome(
        statistics.mean(last.values()),
        statistics.mean(merged),
        max(client["frozen_weights"] for client in held),
        max(check.get("rounding", 0.0) for check in checks),
    )


def _merged(path: Path, name: str, group: str) -> float:
    loaded = open_model(path, group=group)
    figures = score(loaded, part_of_run(loaded, "test"), MergedEvaluator(loaded)).outcomes.figures
    return float(figures[FIGURES[name]])


def spread(values: Sequence[float], sign: str = "") -> str:
    """Mean and, of several, standard deviation."""
    deviation = f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.3f}{deviation}"


def rows_of(name: str, seeds: int, overrides: Sequence[str]) -> list[str]:
    """The rows of one config, printed as they come."""
    rows, plain = [], list[Outcome]()
    with tempfile.TemporaryDirectory() as folder:
        for quantization in WEIGHTS:
            runs = [run(name, quantization, seed, Path(folder), overrides) for seed in range(seeds)]
            plain = plain or runs
            pairs = list(zip(runs, plain, strict=True))
            cells = (
                name,
                quantization,
                f"{runs[0].frozen_bytes / 2**20:.1f}",
                f"{max(r.rounding for r in runs):.2g}",
                FIGURES[name],
                spread([r.figure for r in runs]),
                spread([r.figure - p.figure for r, p in pairs], "+"),
                spread([r.merged for r in runs]),
                spread([r.merged - p.merged for r, p in pairs], "+"),
            )
            rows.append(f"| {' | '.join(cells)} |")
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Run the comparison, print a Markdown table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="changes to the configs, as key=value")
    parser.add_argument("--configs", nargs="+", choices=FIGURES, default=list(FIGURES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    given = parser.parse_intermixed_args()
    table = [HEAD, "| --- " * HEAD.count(" |") + "|"]
    print("\n".join(table), flush=True)
    for name in given.configs:
        table += rows_of(name, given.seeds, given.overrides)
    if given.write:
        configs = ", ".join(f"configs/{name}.yaml" for name in given.configs)
        changed = f" with {', '.join(given.overrides)}" if given.overrides else ""
        seeds = f"{given.seeds} seed{'s' if given.seeds > 1 else ''}"
        conditions = f"{configs}{changed}, {seeds}, {os.cpu_count()} CPU cores, torch {torch.__version__}"
        text = INTRODUCTION.format(conditions=conditions) + "\n".join(table) + "\n"
        PAGE.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
