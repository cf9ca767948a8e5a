"""What many clients over one base cost.

    python benchmarks/scale.py            a small random GPT-2, 1 to 1,000 clients: half a minute
    python benchmarks/scale.py --gpt2     the size of GPT-2
    python benchmarks/scale.py --large    10,000 clients, too

Prints, by number of clients: seconds to create them over a base that is loaded (plan, data and parties); by how much
the process grows for each, beside the formula; and seconds of a round of a fixed cohort, its records and the copies for
its checkpoint among them. The formula: adapters of 4 r (d_in + d_out) bytes a layer. What the process needs once is
spread over the clients, so that only the last rows say what a client costs. A cohort's optimizer moments come on top,
twice its adapters, until the next delivery. Each number of clients has a process of its own, so that nobody uses what
another freed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from rich.console import Console

from atlas_cli.config.schema import ExperimentConfig
from atlas_cli.federation import build as building
from atlas_cli.federation.recorder import Recorder
from atlas_cli.federation.state import Copies, capture
from atlas_cli.federation.training import train
from atlas_cli.models.load import FrozenBase, load_base
from atlas_cli.planning.plan import make_plan
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.runs.directory import RunDirectory

COHORT, ROUNDS, RANK = 8, 5, 8
SMALL = {"n_embd": 128, "n_head": 4, "n_layer": 4}
COLUMNS = ("clients", "build, s", "KiB a client", "formula, KiB", "over it, KiB", "round, s")


def main() -> None:
    """Measure, print the table and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpt2", action="store_true", help="12 blocks of width 768")
    parser.add_argument("--large", action="store_true", help="10,000 clients, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw them: .png or .svg")
    args = parser.parse_args()
    found = []
    for count in (1, 10, 100, 1000, *((10_000,) if args.large else ())):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(measure, (count, args.gpt2)))
        print(f"{count} clients measured", flush=True)
    table(found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if args.picture:
        draw(found, args.picture)


def measure(count: int, gpt2: bool) -> dict[str, float]:
    """All figures for a number of clients, in this process."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        base = load_base((one := experiment(Path(folder), 1, gpt2)).model, seed=one.seed)
        _over(base, one)  # imports, and what is made once in a process
        config = experiment(Path(folder), count, gpt2)
        plan = make_plan(config)
        before, began = resident(), time.perf_counter()
        federation = _over(base, config)
        seconds, grown = time.perf_counter() - began, resident() - before
        rounds = _rounds(federation, RunDirectory.create(folder, "scale", 0))
    return {
        "clients": count,
        "build_seconds": seconds,
        "bytes_a_client": grown / count,
        "formula_bytes": 4 * plan.adapter_parameters(plan.clients[0].ranks),
        "round_seconds": statistics.median(rounds[2:-1]),  # 0 sends the base, 1 is measured, the last reaches everybody
        "first_delivery_seconds": rounds[0],
    }


def experiment(folder: Path, count: int, gpt2: bool) -> ExperimentConfig:
    """One task group; a row of 8 words a client and 16 to test on."""
    rows = [f"{' '.join('abcdefgh'[(i >> n) % 8] for n in range(8))} {i},{'ab'[i % 2]}" for i in range(count + 400)]
    (folder / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    (folder / "test.csv").write_text("text,label\n" + "\n".join(f"test {i},{'ab'[i % 2]}" for i in range(16)) + "\n")
    model: dict[str, object] = {"name": "gpt2", "tokenizer": "gpt2-bpe", "init": "random"}
    data = {"files": str(folder / "rows.csv"), "test_files": str(folder / "test.csv")}
    config = {
        "name": "scale",
        "device": "cpu",
        "threads": 1,
        "model": model if gpt2 else {**model, "config": SMALL},
        "task_groups": {"g": {"task": "sequence-classification", "data": data}},
        "clients": {"c": {"task_group": "g", "rank": RANK, "count": count}},
        "partition": {"scheme": "iid", "min_examples": 1},
        "evaluation": {"every": ROUNDS},
        "training": {
            "rounds": ROUNDS,
            "local_steps": 2,
            "batch_size": 4,
            "max_length": 16,
            "cohort": min(1.0, COHORT / count),
        },
    }
    return ExperimentConfig.model_validate(config)


def _over(base: FrozenBase, config: ExperimentConfig) -> building.Federation:
    load, building.load_base = building.load_base, lambda *_, **__: base
    try:
        return building.build(config)
    finally:
        building.load_base = load


def _rounds(federation: building.Federation, run: RunDirectory) -> list[float]:
    """Seconds of rounds 0, 1, ..., with their records and the copies that a checkpoint is written from."""
    progress, copies = PlainProgress(Console(quiet=True)), Copies()
    progress.start(ROUNDS, 2, federation.group_names)
    marks = [time.perf_counter()]

    def done(_number: int) -> None:
        capture(federation, copies)
        marks.append(time.perf_counter())

    train(federation, Recorder(federation, run, progress), done)
    return [after - before for before, after in pairwise(marks)]


def resident() -> int:
    """Bytes of this process in memory now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def table(found: Sequence[Mapping[str, float]]) -> None:
    """Markdown."""
    print("\n| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for row in found:
        held, formula = row["bytes_a_client"] / 1024, row["formula_bytes"] / 1024
        cells = f"{row['build_seconds']:.2f} | {held:.1f} | {formula:.1f} | {held - formula:.1f}"
        print(f"| {row['clients']:,} | {cells} | {row['round_seconds']:.3f} |")
    print(f"\ncohort: {COHORT} clients (all where there are fewer), 2 local steps of up to 4 examples")


def draw(found: Sequence[Mapping[str, float]], path: Path) -> None:
    """Seconds of a build and of a round by number of clients."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(
        xscale="log", yscale="log", xlabel="clients over one base", ylabel="seconds", title="Cost of many clients"
    )
    counts = [row["clients"] for row in found]
    for key, label in (("build_seconds", "create all"), ("round_seconds", f"a round of a cohort of {COHORT}")):
        axes.plot(counts, [row[key] for row in found], marker="o", label=label)
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
