"""What each way of merging is worth on real text: accuracy, macro-F1, aggregation error and bytes.

    python benchmarks/compare_aggregation.py                     every method and baseline, three seeds
    python benchmarks/compare_aggregation.py --seeds 1 --only delta-svd zero-pad
    python benchmarks/compare_aggregation.py --output DIR        keep the runs; those that are there are not done again

Runs configs/compare-aggregation.yaml; mean and standard deviation over seeds, on the held-out test part after the last
round. Ends with exit code 1 if two methods gave the same losses: then one of them was not what it says.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from atlas_cli import discovery
from atlas_cli.config.load import load_config
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.experiment.session import start
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal
from atlas_cli.runs.directory import RunDirectory, open_run

CONFIG = Path(__file__).parents[1] / "configs" / "compare-aggregation.yaml"
BASELINES = ("centralized", "local-only")


class Outcome(NamedTuple):
    """The end of one run; ``trace`` is the training loss of every round."""

    accuracy: float
    macro_f1: float
    error: float | None
    megabytes: float
    trace: tuple[float, ...]


def run(name: str, seed: int, folder: Path, overrides: Sequence[str]) -> Outcome:
    """Train with one method or baseline, or read the run of the same config that is in ``folder``."""
    choice = f"mode={name}" if name in BASELINES else f"aggregation.method={name}"
    loaded = load_config(CONFIG, [choice, f"seed={seed}", f"output.dir={folder}", *overrides])
    done = finished(folder, loaded.config) or start(loaded.config, PlainProgress(Terminal(quiet=True)))
    rounds = done.read_lines("metrics.jsonl")
    last = rounds[-1]
    return Outcome(
        last["test"]["accuracy"],
        last["test"]["macro_f1"],
        last["aggregation_error"],
        sum(row["bytes_up"] + row["bytes_down"] for row in rounds if row["round"]) / 1e6,
        tuple(row["train_loss"] for row in rounds if row["train_loss"] is not None),
    )


def finished(folder: Path, config: ExperimentConfig) -> RunDirectory | None:
    """A run that has ended with this config, wherever it lies."""
    wanted = config.model_dump(mode="json", exclude={"output"})
    for path in sorted(folder.glob("*/manifest.json")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if (
            manifest["status"] == "finished"
            and {k: v for k, v in manifest["config"].items() if k != "output"} == wanted
        ):
            return open_run(path.parent)
    return None


def table(outcomes: dict[str, list[Outcome]]) -> Table:
    """A row a method: mean and standard deviation over seeds."""
    shown = Table("method", "accuracy", "macro-F1", "merge error", "MB a run", title=CONFIG.name)
    for name, runs in outcomes.items():
        errors = [r.error for r in runs if r.error is not None]
        shown.add_row(
            name,
            spread([r.accuracy for r in runs]),
            spread([r.macro_f1 for r in runs]),
            spread(errors) if errors else "-",
            f"{statistics.mean(r.megabytes for r in runs):,.0f}",
        )
    return shown


def spread(values: Sequence[float]) -> str:
    """Mean and, of several, standard deviation."""
    deviation = f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


def main() -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="changes to the config, as key=value")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[*discovery.names("aggregation.methods"), *BASELINES])
    parser.add_argument("--output", type=Path, help="keep the runs here, and use those that are here")
    given = parser.parse_args()
    outcomes: dict[str, list[Outcome]] = {name: [] for name in given.only}
    with tempfile.TemporaryDirectory() if given.output is None else nullcontext(given.output) as folder:
        for seed, name in itertools.product(range(given.seeds), given.only):
            outcomes[name].append(run(name, seed, Path(folder), given.overrides))
            print(f"seed {seed}: {name} {outcomes[name][-1].accuracy:.3f}", flush=True)
    Terminal(width=100).print(table(outcomes))
    traces = {name: tuple(o.trace for o in runs) for name, runs in outcomes.items()}
    alike = [(a, b) for i, a in enumerate(traces) for b in list(traces)[:i] if traces[a] == traces[b]]
    for a, b in alike:
        print(f"{a} and {b} trained identically", file=sys.stderr)
    return 1 if alike else 0


if __name__ == "__main__":
    sys.exit(main())
