"""What each aggregation method loses, sends and takes on one layer of d x d, with clients of ranks 4, 8, 16 and 64.

    python benchmarks/aggregation.py            d = 768, 2048, 4096; about 4 minutes on one core
    python benchmarks/aggregation.py --quick    d = 768; under a minute

Clients fit toy updates of rank 12, half of which they share, with Adam, from one seeded adapter, in fp32, for three
rounds; each method then merges, delivers, and goes on from there. Error is norm(dW - X) / norm(X), by the error ledger:
of the merged update at the largest rank, and of what clients are delivered (root mean square by weight). For methods
that change the base it is that of the changed base. Every method is measured in a process of its own; peak memory is
what a merge adds to it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from rich import box
from rich.table import Table
from torch import Tensor

from atlas_cli import discovery
from atlas_cli.aggregation.contract import BaseMethod, Context, Factors, Layer, Merge, Update, truncated
from atlas_cli.aggregation.error import error_ledger, exact_change, exact_sum
from atlas_cli.aggregation.low_rank import squared_norm, stack, svd
from atlas_cli.aggregation.selection import as_run, components, others, picked
from atlas_cli.models.adapters.lora import LORA, initial_A
from atlas_cli.planning.method import load_method
from atlas_cli.reports.terminal import Terminal
from atlas_cli.seeding import torch_generator

RANKS = (4, 8, 16, 64)
WEIGHTS = (100.0, 200.0, 300.0, 400.0)
PATH = "layer"


def main() -> None:
    """Print both tables, or measure one method for them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "D"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.one:
        print(json.dumps(measured(arguments.one[0], int(arguments.one[1]))))
        return
    methods(arguments.quick)
    decompositions(arguments.quick)


def goal(client: int, d: int) -> Factors:
    """What a client's update should become: rank 12 and norm about 1, the first 6 components as for all others."""

    def part(*purpose: str | int) -> Factors:
        draw = torch_generator(0, "goal", *purpose)
        A, B = torch.randn(6, d, generator=draw) / d**0.5, torch.randn(d, 6, generator=draw) / d**0.5
        return Factors(A, B * torch.tensor([0.7**j for j in range(6)]))

    return stack([(0.7, part("all")), (0.7, part(client))], torch.float32)


def fit(start: Factors, wanted: Sequence[tuple[float, Factors]], trained: Sequence[str], steps: int = 60) -> Factors:
    """Steps of Adam on norm(dW + R)^2 / 2 from ``start``, R a weighted sum of products; no dense matrix."""
    A, B = start.A.clone(), start.B.clone()
    learned = [t for name, t in (("A", A), ("B", B)) if name in trained]
    optimizer = torch.optim.Adam(learned, lr=0.2 / start.A.shape[1] ** 0.5)
    rest = stack(wanted, torch.float32)
    for _ in range(steps):
        A.grad = B.T @ B @ A + (B.T @ rest.B) @ rest.A
        B.grad = B @ (A @ A.T) + rest.B @ (rest.A @ A.T)
        optimizer.step()
    return Factors(A, B)


def train(method: BaseMethod, current: dict[str, Factors], base: list[Factors], d: int, number: int) -> list[Update]:
    """A round of all clients, each from the first rows of the group's adapter (and, with ``base``, less its worth)."""
    updates = []
    for k, (rank, weight) in enumerate(zip(RANKS, WEIGHTS, strict=True)):
        own = components(method, f"c{k}", number, {PATH: rank}, current)
        start = truncated({**current, **picked(current, own)}, {PATH: rank})[PATH]
        frozen = [(1.0, f) for f in base] + ([(-1.0, start)] if method.CHANGES_BASE else [])
        frozen += [(1.0, f) for f in others(current, own).values()]
        after = fit(start, [*frozen, (-1.0, goal(k, d))], method.parts_of(number).trained)
        extras = {
            name: torch.zeros(shape) for name, shape in method.extra_tensors({PATH: Layer(rank, d, d)}).up.items()
        }
        updates.append(Update(f"c{k}", weight, as_run(current, own, {PATH: after}), extras, components=own))
    return updates


def rounds(
    name: str, d: int, number: int = 3
) -> Iterable[tuple[dict[str, Factors], list[Update], Merge, Callable[[], Merge]]]:
    """By round: the group's adapter before, what clients sent, the merge, and the merge as a function to time."""
    method = load_method(name)()
    A = initial_A(max(RANKS), d, torch_generator(0, "start"))
    current, base = {PATH: Factors(A, torch.zeros(d, max(RANKS)))}, []
    for i in range(1, number + 1):
        updates = train(method, current, base, d, i)
        context = Context("g", i, {PATH: dict(zip(RANKS, WEIGHTS, strict=True))}, i)

        def merge(current=current, updates=updates, context=context) -> Merge:
            return method.aggregate(current, updates, context)

        result = merge()
        yield current, updates, result, merge
        current, base = result.adapters, [*base, *result.base.values()]


def errors(name: str, before: dict[str, Factors], updates: Sequence[Update], merge: Merge) -> dict[str, float] | None:
    """Relative errors of the merged update, of its target, and of what is delivered; None where there is no target."""
    method = load_method(name)()
    if not method.GROUP_ADAPTER:
        return None
    if method.CHANGES_BASE:
        exact, target = stack(exact_change(PATH, updates, before[PATH])), merge.base
        whole = target[PATH]
        delivered = [(w, whole) for w in WEIGHTS]
    else:
        found = exact_sum(PATH, updates)
        assert found is not None
        exact, target, whole = found, merge.target or merge.adapters, merge.adapters[PATH]
        ranks = [max(RANKS) if method.SELECTS else rank for rank in RANKS]
        delivered = [
            (w, method.deliver(merge.adapters, {}, {PATH: r})[PATH]) for w, r in zip(WEIGHTS, ranks, strict=True)
        ]
    overall = error_ledger({PATH: exact}, target, {PATH: delivered}).overall
    assert overall is not None
    merged = math.sqrt(squared_norm(stack([(1.0, whole), (-1.0, exact)])) / squared_norm(exact))
    return {"merged": merged, "delivered": overall.total, "cross_term": overall.cross_term}


def traffic(name: str, d: int, merge: Merge) -> tuple[int, int]:
    """Bytes up and down of a round with an odd number, all clients, fp32."""
    method = load_method(name)()
    parts = method.parts_of(1)
    added = sum(f.rank for f in merge.base.values())
    extras = [method.extra_tensors({PATH: Layer(r, d, d)}) for r in RANKS]
    more_up, more_down = (
        sum(4 * math.prod(shape) for told in extras for shape in getattr(told, way).values()) for way in ("up", "down")
    )
    up = sum(4 * r * d * len(parts.sent) for r in RANKS) + more_up
    got = [max(RANKS) if method.SELECTS else rank for rank in RANKS]
    return up, sum(4 * d * (r * len(parts.delivered) + 2 * added) for r in got) + more_down


def measured(name: str, d: int) -> dict[str, object]:
    """One row: errors of rounds 1 and 3, bytes of round 3, median seconds of a merge and of its ledger, peak bytes."""
    for _ in rounds(name, 80, 1):  # what libraries take at first use
        pass
    found, row = [], {}
    for before, updates, result, merge in rounds(name, d):
        found.append(errors(name, before, updates, result))
        row = {"errors": [found[0], found[-1]], "bytes": traffic(name, d, result)}
        last, ledger = merge, (lambda b=before, u=updates, r=result: errors(name, b, u, r))
    row |= {"peak": peak(last), "seconds": median_seconds(last), "ledger": median_seconds(ledger)}
    return row


def peak(merge: Callable[[], Merge]) -> int | None:
    """Bytes that a call adds to the resident memory of this process at most; None where the system cannot say."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # else what earlier calls freed is used again and not seen
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except (OSError, AttributeError, TypeError):  # Windows has no library of that kind
        return None
    before = _resident("VmRSS")
    merge()
    return _resident("VmHWM") - before


def _resident(what: str) -> int:
    return 1024 * int(Path("/proc/self/status").read_text(encoding="utf-8").split(what + ":")[1].split()[0])


def median_seconds(call: Callable[[], object], times: int = 5) -> float:
    """Of a few calls."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def methods(quick: bool) -> None:
    """Table 1: a row a method and size."""
    table = Table(
        *("d", "method", "merged, round 1", "round 3", "cross term, 3", "delivered, round 1", "round 3"),
        *("up, MB", "down, MB", "merge, ms", "ledger, ms", "peak, MB"),
        box=box.MARKDOWN,
        title=f"Clients of ranks {', '.join(map(str, RANKS))}",
    )
    for d in (768,) if quick else (768, 2048, 4096):
        for name in discovery.names("aggregation.methods"):
            if load_method(name)().form() != LORA:
                continue  # no factors A and B that could be compared
            if d > 768 and load_method(name).EQUAL_CLIENTS:
                continue  # a dense SVD takes 10 s a layer at 2048, and minutes at 4096
            command = [sys.executable, __file__, "--one", name, str(d)]
            row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            first, last = row["errors"]
            figures = [
                f"{e[what]:.2g}" if e else ""
                for e, what in (
                    *((first, "merged"), (last, "merged"), (last, "cross_term")),
                    *((first, "delivered"), (last, "delivered")),
                )
            ]
            table.add_row(
                *(str(d), name, *figures),
                *(f"{n / 1e6:.2f}" for n in row["bytes"]),
                *(f"{1e3 * row[what]:.1f}" for what in ("seconds", "ledger")),
                f"{row['peak'] / 1e6:.0f}" if row["peak"] is not None else "",
            )
    Terminal(width=160).print(table)


def decompositions(quick: bool) -> None:
    """Table 2: singular values of a stack by QR of its factors, and of the dense product, both in fp32 and fp64."""
    table = Table("d", "R", "QR, fp64, ms", "dense, fp64, ms", "ratio", "dense, fp32, ms", "ratio", box=box.MARKDOWN)
    rank = sum(RANKS)
    for d in (768,) if quick else (768, 2048):
        draw = torch_generator(0, "stack")
        f = Factors(torch.randn(rank, d, generator=draw), torch.randn(d, rank, generator=draw))
        by_qr = median_seconds(lambda f=f: svd(f))

        def dense(dtype: torch.dtype, f: Factors = f) -> Tensor:
            return torch.linalg.svd(f.B.to(dtype) @ f.A.to(dtype), full_matrices=False).S

        double, single = (median_seconds(lambda t=t: dense(t), 3) for t in (torch.float64, torch.float32))
        milliseconds = [f"{1e3 * s:.1f}" for s in (by_qr, double, single)]
        table.add_row(
            *(str(d), str(rank), *milliseconds[:2], f"{double / by_qr:.0f}", milliseconds[2], f"{single / by_qr:.0f}")
        )
    Terminal(width=160).print(table)


if __name__ == "__main__":
    main()
