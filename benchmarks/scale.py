"""What many clients over one base cost.

    python benchmarks/scale.py            a small random GPT-2, 1 to 1,000 clients: half a minute
    python benchmarks/scale.py --gpt2     the size of GPT-2
    python benchmarks/scale.py --large    10,000 clients, too, and with engine.offload
    python benchmarks/scale.py --huge     100,000 with engine.offload, too
    python benchmarks/scale.py --million  1,000,000 with engine.offload alone: 10 minutes of a core, 6 GB of memory

Prints, by number of clients, in CPU seconds: what it takes to create them over a base that is loaded (plan, data and
parties); by how much the process grows for each, beside the formula; and rounds with their records and the copies for
their checkpoints: round 0 and the last, which reach all clients, and between them one of a fixed cohort. The formula:
adapters of 4 r (d_in + d_out) bytes a layer. What the process needs once is spread over the clients, so that only the
last rows say what a client costs. A cohort's optimizer moments come on top, twice its adapters, until the next
delivery. With offload, the memory of a client is that of one that is away. The last column is by how much the process
grew at most, rounds included. Each number of clients has a process of its own, so that nobody uses what another freed.
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

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.experiment.recorder import Recorder
from atlas_cli.experiment.round_loop import train
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation import build as building
from atlas_cli.federation import loaded_experiment
from atlas_cli.models.frozen.load import FrozenBase, load_base
from atlas_cli.planning.plan import make_plan
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.record_files import RecordFiles

COHORT, ROUNDS, RANK = 8, 5, 8
OFFLOAD = "1 MiB"
SMALL = {"n_embd": 128, "n_head": 4, "n_layer": 4}
COLUMNS = (
    *("clients", "build, s", "KiB a client", "formula, KiB", "over it, KiB"),
    *("round 0, s", "round, s", "last round, s", "most, MiB"),
)


def main() -> None:
    """Measure, print the table and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpt2", action="store_true", help="12 blocks of width 768")
    parser.add_argument("--large", action="store_true", help="10,000 clients, too, with and without offload")
    parser.add_argument("--huge", action="store_true", help="100,000 clients with offload, too: a minute")
    parser.add_argument("--million", action="store_true", help="1,000,000 clients with offload alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw them: .png or .svg")
    args = parser.parse_args()
    found = []
    sizes = [(count, False) for count in (1, 10, 100, 1000)]
    sizes += [(10_000, False), (10_000, True)] if args.large or args.huge else []
    sizes += [(100_000, True)] if args.huge else []
    sizes = [(1_000_000, True)] if args.million else sizes
    for count, offload in sizes:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(measure, (count, args.gpt2, offload)))
        print(f"{count} clients measured", flush=True)
    table(found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if args.picture:
        draw(found, args.picture)


def measure(count: int, gpt2: bool, offload: bool = False) -> dict[str, float]:
    """All figures for a number of clients, in this process."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        base = load_base((one := experiment(Path(folder), 1, gpt2)).model, seed=one.seed)
        _over(base, one)  # imports, and what is made once in a process
        config = experiment(Path(folder), count, gpt2, offload)
        began = time.process_time()
        plan = make_plan(config)
        planned = time.process_time() - began
        before, began = resident(), time.process_time()
        federation = _over(base, config)
        seconds, grown = time.process_time() - began, resident() - before
        rounds, most = _rounds(federation, RunDirectory.create(folder, "scale", 0))
        on_disk = 0 if federation.offload is None else federation.offload.store.peak_disk_bytes
        if federation.offload is not None:
            federation.offload.store.close()
    return {
        "clients": count,
        "offload": offload,
        "plan_seconds": planned,
        "build_seconds": seconds,
        "bytes_a_client": grown / count,
        "formula_bytes": 4 * plan.adapter_parameters(plan.clients[0].ranks),
        "round_seconds": statistics.median(rounds[2:-1]),  # 0 sends the base, 1 is measured, the last reaches everybody
        "first_delivery_seconds": rounds[0],
        "last_round_seconds": rounds[-1],
        "grown_bytes": most - before,
        "disk_bytes": on_disk,
    }


def experiment(folder: Path, count: int, gpt2: bool, offload: bool = False) -> ExperimentConfig:
    """One task group; a row of 8 words a client and 16 to test on."""
    rows = [f"{' '.join('abcdefgh'[(i >> n) % 8] for n in range(8))} {i},{'ab'[i % 2]}" for i in range(count + 400)]
    (folder / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    (folder / "test.csv").write_text(
        "text,label\n" + "\n".join(f"test {i},{'ab'[i % 2]}" for i in range(16)) + "\n", encoding="utf-8"
    )
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
        "engine": {"offload": OFFLOAD if offload else None},
        "output": {"dir": str(folder)},
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
    load, loaded_experiment.load_base = loaded_experiment.load_base, lambda *_, **__: base
    try:
        return building.build(config)
    finally:
        loaded_experiment.load_base = load


def _rounds(federation: building.Federation, run: RunDirectory) -> tuple[list[float], int]:
    """Seconds of rounds 0, 1, ..., with records and copies for a checkpoint; the most memory after one of them."""
    progress, state = PlainProgress(Terminal(quiet=True)), RunState(federation)
    progress.start(ROUNDS, 2, federation.group_names)
    marks, sizes = [time.process_time()], [resident()]

    def done(_number: int) -> None:
        state.capture()
        marks.append(time.process_time())
        sizes.append(resident())

    train(federation, Recorder(federation, RecordFiles(run), progress), done)
    return [after - before for before, after in pairwise(marks)], max(sizes)


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
        name = f"{row['clients']:,}{', offloaded' if row['offload'] else ''}"
        all_reached = row["first_delivery_seconds"], row["last_round_seconds"]
        rounds = f"{all_reached[0]:.2f} | {row['round_seconds']:.3f} | {all_reached[1]:.2f}"
        print(f"| {name} | {cells} | {rounds} | {row['grown_bytes'] / 2**20:.0f} |")
    print(f"\ncohort: {COHORT} clients (all where there are fewer), 2 local steps of up to 4 examples")


def draw(found: Sequence[Mapping[str, float]], path: Path) -> None:
    """Seconds of a build and of a round by number of clients."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(
        xscale="log", yscale="log", xlabel="clients over one base", ylabel="seconds", title="Cost of many clients"
    )
    for key, label in (("build_seconds", "create all"), ("round_seconds", f"a round of a cohort of {COHORT}")):
        for away in (False, True):
            rows = [row for row in found if bool(row["offload"]) is away]
            if rows:
                how = {"linestyle": "--", "label": f"{label}, offloaded"} if away else {"label": label}
                axes.plot([row["clients"] for row in rows], [row[key] for row in rows], marker="o", **how)
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
