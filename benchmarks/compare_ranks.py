"""What ranks by importance are worth on real text, against equal and random ranks of the same budget.

    python benchmarks/compare_ranks.py               three seeds
    python benchmarks/compare_ranks.py --seeds 1

Runs configs/compare-ranks.yaml with each ``allocation.importance``; accuracy and macro-F1 are those of the held-out
test part after the last round, mean and standard deviation over seeds. Differences from equal ranks are of the same
seed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from atlas_cli.config.load import load_config
from atlas_cli.experiment.allocation.auto_ranks import plan_ranks
from atlas_cli.experiment.session import start
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal

CONFIG = Path(__file__).parents[1] / "configs" / "compare-ranks.yaml"
METHODS = ("uniform", "random", "gradient")


class Outcome(NamedTuple):
    """The end of one run; ``parameters`` of all clients' adapters, ``largest`` and ``smallest`` rank of a layer."""

    accuracy: float
    macro_f1: float
    train_loss: float
    parameters: int
    smallest: int
    largest: int


def run(method: str, seed: int, folder: Path, overrides: Sequence[str]) -> Outcome:
    """Rank and train with one method."""
    changes = [f"allocation.importance={method}", f"seed={seed}", f"output.dir={folder}", *overrides]
    ranked = plan_ranks(load_config(CONFIG, changes).config)
    last = start(ranked.config, PlainProgress(Terminal(quiet=True))).read_lines("metrics.jsonl")[-1]
    ranks = [rank for client in ranked.clients for rank in client.ranks.values()]
    parameters = sum(client.adapter_parameters for client in ranked.clients)
    return Outcome(
        last["test"]["accuracy"], last["test"]["macro_f1"], last["train_loss"], parameters, min(ranks), max(ranks)
    )


def spread(values: Sequence[float], sign: str = "") -> str:
    """Mean and, of several, standard deviation."""
    deviation = f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.3f}{deviation}"


def main() -> None:
    """Run the comparison and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="changes to the config, as key=value")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    print("| ranks | adapter parameters | of a layer | accuracy | against uniform | macro-F1 | training loss |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    equal: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        for method in METHODS:
            runs = [run(method, seed, Path(folder), given.overrides) for seed in range(given.seeds)]
            equal = equal or runs
            cells = (
                method,
                f"{statistics.mean(r.parameters for r in runs):,.0f}",
                f"{min(r.smallest for r in runs)} to {max(r.largest for r in runs)}",
                spread([r.accuracy for r in runs]),
                spread([r.accuracy - e.accuracy for r, e in zip(runs, equal, strict=True)], "+"),
                spread([r.macro_f1 for r in runs]),
                spread([r.train_loss for r in runs]),
            )
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
