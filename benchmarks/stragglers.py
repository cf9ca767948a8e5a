"""What waiting for slow clients costs: virtual seconds to an accuracy, of rounds and of buffered merges.

    python benchmarks/stragglers.py                       stragglers of 4 x and 16 x, three seeds
    python benchmarks/stragglers.py --seeds 1 --target 0.3
    python benchmarks/stragglers.py --seeds 1 training.rounds=2     any further overrides; shows that all works

Runs configs/compare-aggregation.yaml with every client on one device, two of the ten of them slower by the factor, in
rounds that wait for all and with ``training.asynchrony`` for several buffers; the server steps on each batch in turn in
both. A run of buffer K has 10/K times the rounds, so that about as many updates are merged, at a constant learning
rate.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from atlas_cli.config.load import load_config
from atlas_cli.experiment.session import start
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal

CONFIG = Path(__file__).parents[1] / "configs" / "compare-aggregation.yaml"
CLIENTS, SLOW, BUFFERS = 10, ("tiny-1", "large-1"), (None, 5, 2, 1)
COMMON = [
    *(f"clients.{name}.device=phone-6gib" for name in ("tiny", "small", "middle", "large")),
    "training.server_update=sequential",
    "training.schedule.name=constant",
]


def run(
    buffer: int | None, factor: float, seed: int, folder: Path, overrides: Sequence[str]
) -> list[tuple[float, float]]:
    """Train once; the virtual time and the accuracy of each evaluation."""
    changes = [*COMMON, *(f"faults.slow.{name}={factor:.1f}" for name in SLOW), f"seed={seed}", f"output.dir={folder}"]
    config = load_config(CONFIG, [*changes, *overrides]).config
    more = 1 if buffer is None else CLIENTS // buffer
    changes += [*overrides, f"training.rounds={more * config.training.rounds}", f"evaluation.every={more}"]
    if buffer is not None:
        changes.append(f"training.asynchrony.buffer={buffer}")
    lines = start(load_config(CONFIG, changes).config, PlainProgress(Terminal(quiet=True))).read_lines("metrics.jsonl")
    times = itertools.accumulate(line["simulated_seconds"] or 0.0 for line in lines)
    return [(now, line["test"]["accuracy"]) for now, line in zip(times, lines, strict=True) if line["test"]]


def reached(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """The first time at which an evaluation has the target; None if none has."""
    return next((now for now, accuracy in curve if accuracy >= target), None)


def main() -> None:
    """Run the comparison and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--factors", type=float, nargs="+", default=[4.0, 16.0])
    parser.add_argument("--target", type=float, default=0.4, help="test accuracy")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    print(f"| stragglers | merges | virtual seconds to {given.target:g} | last accuracy | virtual seconds in all |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for factor, buffer in itertools.product(given.factors, BUFFERS):
            curves = [run(buffer, factor, seed, Path(folder), given.overrides) for seed in range(given.seeds)]
            times = [reached(curve, given.target) for curve in curves]
            there = [time for time in times if time is not None]
            mean = f"{statistics.mean(there):.0f}" if there else "-"
            some = f" ({len(there)} of {len(times)} seeds)" if len(there) < len(times) else ""
            last = statistics.mean(curve[-1][1] for curve in curves)
            whole = statistics.mean(curve[-1][0] for curve in curves)
            what = "rounds" if buffer is None else f"buffer of {buffer}"
            print(f"| {factor:g} x | {what} | {mean}{some} | {last:.3f} | {whole:.0f} |", flush=True)


if __name__ == "__main__":
    main()
