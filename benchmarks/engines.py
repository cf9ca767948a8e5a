"""What it costs that clients compute elsewhere: ms an exchange and samples a second, by engine and number of clients.

    python benchmarks/engines.py                 in-process and Ray at 2, 8 and 32 clients: about 3 minutes
    python benchmarks/engines.py --two-nodes     and over two raylets, which it starts on this machine
    python benchmarks/engines.py --passes        GPT-2's size with shared passes: about 4 minutes

An exchange is one client's step: its activations up and its gradients down, with the computation of both sides. The
first table is the bare way of 3 MB up and 3 MB down for two processes at a time, nothing computed; the second whole
local steps of a random BERT of MiniLM's size, cut in the middle, ``engine.fuse: off`` on both engines, one thread each.
Turns of the engines alternate, and figures are medians of them.

``--passes``: what two processes are worth with ``engine.fuse: auto``, where clients of one process share its passes. A
random GPT-2 small, cut in the middle, eight clients. One thread of one process, one after the other and in shared
passes, and two processes of one thread in the same two ways; a ratio is the median of those of turns that follow each
other. The CPU seconds of the server's process in a turn, and how long it waited, say where the time goes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.engines.engine import LocalSteps
from atlas_cli.engines.in_process import local_steps
from atlas_cli.engines.remote.cluster import connected
from atlas_cli.engines.remote.ray_engine import RayEngine
from atlas_cli.experiment.round_loop import set_up
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.build import build
from atlas_cli.federation.federation import Federation
from atlas_cli.wire.ledger import Ledger

STEPS, TURNS, MEGABYTES = 4, 5, 3
COUNTS = (2, 8, 32)
PASS_CLIENTS, PASS_STEPS, PASS_TURNS = 8, 2, 6
_SIZE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
MINILM = {"name": "bert", "config": {**_SIZE, "vocab_size": 50257}}
GPT2 = {"name": "gpt2"}


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--two-nodes", action="store_true", help="also over two raylets of this machine")
    parser.add_argument("--passes", action="store_true", help="GPT-2's size with shared passes, and nothing else")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.passes:
        with connected(None, 4) as ray:  # the processes of both ways are there at once, and work in turn
            kept: dict[str, Any] = shared_passes(ray)
        if args.json:
            args.json.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
        return
    print(f"{'':34} ms an exchange   samples/s")
    with connected(None, 2) as ray:
        found = {"bare way, one node": bare_way(ray, "one node"), **whole_steps(ray, "ray")}
    if args.two_nodes:
        with two_nodes() as address, connected(address, 2) as ray:
            found |= {"bare way, two nodes": bare_way(ray, "two nodes"), **whole_steps(ray, "ray, two nodes")}
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def show(what: str, milliseconds: float, samples: float | None) -> tuple[float, float | None]:
    """A figure as it is found."""
    print(f"{what:34} {milliseconds:14.1f} {'' if samples is None else f'{samples:11.1f}'}", flush=True)
    return milliseconds, samples


def bare_way(ray: Any, name: str) -> tuple[float, float | None]:
    """Milliseconds for 3 MB to a process and 3 MB back, two processes at a time."""

    class Echo:
        def back(self, values: np.ndarray) -> np.ndarray:
            return values.copy()

    processes = [ray.remote(Echo).options(num_cpus=1).remote() for _ in range(2)]
    values = np.random.default_rng(0).random(MEGABYTES * 10**6 // 4, dtype=np.float32)
    seconds = []
    for _ in range(30):
        began = time.perf_counter()
        for each in ray.get([process.back.remote(values) for process in processes]):
            each.copy()
        seconds.append((time.perf_counter() - began) / len(processes))
    for process in processes:
        ray.kill(process)
    return show(f"bare way, {name}", 1e3 * statistics.median(seconds[5:]), None)


def whole_steps(ray: Any, name: str) -> dict[str, tuple[float, float | None]]:
    """Milliseconds an exchange and samples a second of local steps, by engine and number of clients."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in COUNTS:
            plain, remote = (build(experiment(Path(folder), count, engine)) for engine in ("in-process", "ray"))
            with RayEngine(remote, ray, lambda note: None) as engine:
                turns = [(plain, turn_of(plain, local_steps)), (remote, turn_of(remote, engine.local_steps))]
                seconds: list[list[float]] = [[], []]
                for number in range(1, TURNS + 2):
                    for taken, (_, turn) in zip(seconds, turns, strict=True):
                        taken.append(turn(number))
            for which, taken in zip(("in-process", name), seconds, strict=True):
                turn_seconds = statistics.median(taken[1:])
                batch = plain.config.training.batch_size
                exchanges = count * STEPS
                milliseconds, samples = 1e3 * turn_seconds / exchanges, exchanges * batch / turn_seconds
                found[f"{which}, {count} clients"] = show(f"{which}, {count} clients", milliseconds, samples)
    return found


def shared_passes(ray: Any) -> dict[str, Any]:
    """Samples a second at GPT-2's size by engine and ``engine.fuse``, and their ratios to shared passes in-process."""
    ways = [(engine, fuse) for fuse in ("off", "auto") for engine in ("in-process", "ray")]
    taken: dict[tuple[str, str], list[Taken]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        turns = {}
        for engine, fuse in ways:
            federation = build(experiment(Path(folder), PASS_CLIENTS, engine, GPT2, fuse, PASS_STEPS))
            steps = local_steps
            if engine == "ray":
                steps = stack.enter_context(RayEngine(federation, ray, lambda note: None)).local_steps
            turns[engine, fuse] = turn_of(federation, steps)
        for number in range(1, PASS_TURNS + 2):
            for way, turn in turns.items():
                began = time.process_time()
                taken[way].append(Taken(turn(number), time.process_time() - began))
    samples, found = PASS_CLIENTS * PASS_STEPS * federation.config.training.batch_size, {}
    print(f"{'engine, engine.fuse':22} samples/s   CPU s of the server   over in-process, auto: median (quartiles)")
    for way, each in taken.items():
        after = each[1:]  # memory is measured in the first round, client by client
        ratios = [one.seconds / two.seconds for one, two in zip(taken["in-process", "auto"][1:], after, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        speed = samples / statistics.median(turn.seconds for turn in after)
        cpu = statistics.median(turn.cpu / turn.seconds for turn in after)
        found[", ".join(way)] = {"samples/s": speed, "server's share of the time": cpu, "ratios": ratios}
        print(f"{', '.join(way):22} {speed:9.2f} {cpu:20.0%}   {middle:.2f} ({low:.2f} to {high:.2f})", flush=True)
    return found


class Taken(NamedTuple):
    """Seconds of a turn by the clock, and CPU seconds of the server's process."""

    seconds: float
    cpu: float


def turn_of(federation: Federation, steps: LocalSteps) -> Callable[[int], float]:
    """Seconds of the local steps of a round, by its number."""
    set_up(federation)

    def turn(number: int) -> float:
        attendance = Attendance(federation, list(federation.clients), number)
        attendance.begin()
        began = time.perf_counter()
        steps(federation, attendance, Ledger(), lambda *_: None)
        return time.perf_counter() - began

    return turn


def experiment(
    folder: Path,
    count: int,
    engine: str,
    model: Mapping[str, Any] = MINILM,
    fuse: str = "off",
    steps: int = STEPS,
) -> ExperimentConfig:
    """One task group; sentences of 8 to 40 words."""
    draw = np.random.default_rng(0)
    words = ["the", "film", "was", "very", "good", "and", "a", "city", "phone", "price", "is", "not"]
    rows = [f"{' '.join(draw.choice(words, draw.integers(8, 40)))},{'ab'[i % 2]}" for i in range(40 * count)]
    (folder / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return ExperimentConfig.model_validate(
        {
            "name": "engines",
            "device": "cpu",
            "threads": 1,
            "model": {"tokenizer": "gpt2-bpe", "init": "random", **model},
            "task_groups": {"g": {"task": "sequence-classification", "data": {"files": str(folder / "rows.csv")}}},
            "clients": {"c": {"task_group": "g", "rank": 8, "count": count}},
            "training": {"rounds": TURNS + 2, "local_steps": steps, "batch_size": 8, "max_length": 64},
            "engine": {"name": engine, "fuse": fuse, "hosts": 2},
        }
    )


@contextmanager
def two_nodes() -> Iterator[str]:
    """The address of a cluster of two raylets on this machine, a CPU each."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
