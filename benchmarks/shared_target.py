"""What merges make of clients that train to their optimum: one matrix to fit, with ranks that cannot hold it.

    python benchmarks/shared_target.py               seconds on a CPU
    python benchmarks/shared_target.py --rounds 40

Clients of ranks 2 (six), 8 (two) and 16 (two) and of equal weight all fit one target of rank 16, whose singular values
fall evenly from 1 to 0.6, and reach their optimum in every round: the best update of their rank for what is left
(Eckart and Young, 1936), or the best B for a fixed A. So all that differs is the merge. The figure is the energy of the
target that the group's update misses, norm(target - dW)^2 / norm(target)^2, and what a client of rank 2 misses of it.
"closed form" is theory's figure for the last round. p_j is the share of the clients whose rank is at least j:

    flexlora, lora-fair   component j comes to p_j sigma_j in round 1, and stays there
    zero-pad              A and B are each multiplied by p_j: p_j^2 sigma_j
    hetlora               the same with p_j weighted by the norms of the clients' updates
    delta-svd             a round adds p_j of what is missing: (1 - p_j)^t sigma_j are missing after t rounds
    flora                 clients fit what the base misses, so that those of rank 2 go on to other components: what is
                          missing of the k-th largest is multiplied by 1 - p_k, and is sorted anew
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from rich import box
from rich.table import Table
from torch import Tensor

from atlas_cli.aggregation.contract import BaseMethod, Context, Factors, Update, truncated
from atlas_cli.aggregation.low_rank import Svd, redistribute
from atlas_cli.models.adapters.lora import initial_A
from atlas_cli.planning.method import load_method
from atlas_cli.reports.terminal import Terminal
from atlas_cli.seeding import torch_generator

RANKS = (2,) * 6 + (8,) * 2 + (16,) * 2
METHODS = (
    *("flora", "fedex", "delta-svd", "trimmed-mean", "flexlora"),
    *("lora-fair", "hetlora", "zero-pad", "median", "ffa"),
)
SHOWN = (1, 2, 5, 10)
D_IN, D_OUT = 64, 48
PATH = "layer"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of all clients (default 20)")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    given = parser.parse_args()
    shown = sorted({n for n in SHOWN if n < given.rounds} | {given.rounds})
    table = Table("method", *(f"round {n}" for n in shown), "closed form", "at rank 2", box=box.MARKDOWN)
    for name in given.methods:
        group, least = missing(name, RANKS, given.rounds)
        closed = CLOSED[name](given.rounds) if name in CLOSED else None
        figures = [*(group[n - 1] for n in shown), closed, least[-1]]
        table.add_row(name, *("" if figure is None else f"{figure:.3f}" for figure in figures))
    Terminal(width=120).print(table)


def spectrum() -> Tensor:
    """The singular values of the target."""
    return torch.linspace(1, 0.6, max(RANKS), dtype=torch.float64)


def energy(left: Tensor) -> float:
    """That of missing components, as a share of the target's."""
    return float(left.square().sum() / spectrum().square().sum())


def missing(name: str, ranks: Sequence[int], rounds: int) -> tuple[list[float], list[float]]:
    """What the group's update misses after each round, and what the least client's misses."""
    U, V = (torch.linalg.qr(_drawn(side, d, max(ranks))).Q for side, d in (("U", D_OUT), ("V", D_IN)))
    target = U * spectrum() @ V.T
    method, base = load_method(name)(), torch.zeros_like(target)
    A = initial_A(max(ranks), D_IN, torch_generator(0, "A")).double()
    current = {PATH: Factors(A, A.new_zeros(D_OUT, max(ranks)))}
    weights = {rank: float(ranks.count(rank)) for rank in ranks}
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(1, rounds + 1):
        updates = []
        for k, rank in enumerate(ranks):
            start = truncated(current, {PATH: rank})[PATH]
            held = base - start.B @ start.A if method.CHANGES_BASE else base
            updates.append(Update(str(k), 1.0, {PATH: optimum(method, start, target - held)}))
        merge = method.aggregate(current, updates, Context("g", number, {PATH: weights}))
        current = merge.adapters
        for change in merge.base.values():
            base = base + change.B @ change.A
        for rank, figures in zip((max(ranks), min(ranks)), found, strict=True):
            has = method.deliver(current, {}, {PATH: rank})[PATH]
            reached = base if method.CHANGES_BASE else has.B @ has.A
            figures.append(float((target - reached).square().sum() / target.square().sum()))
    return found


def optimum(method: BaseMethod, start: Factors, wanted: Tensor) -> Factors:
    """The best update of a client's rank for what is wanted; where A is not trained, the best B for it."""
    if "A" not in method.TRAINED:
        return Factors(start.A, wanted @ torch.linalg.pinv(start.A))
    U, S, Vh = torch.linalg.svd(wanted, full_matrices=False)
    return redistribute(Svd(U, S, Vh), start)


def _drawn(side: str, d: int, rank: int) -> Tensor:
    return torch.randn(d, rank, generator=torch_generator(0, side), dtype=torch.float64)


def share(weights: Sequence[float] = (1.0,) * len(RANKS)) -> Tensor:
    """p_j: the weight of the clients that have component j."""
    total = sum(weights)
    return torch.tensor(
        [sum(w for w, rank in zip(weights, RANKS, strict=True) if rank > j) / total for j in range(max(RANKS))],
        dtype=torch.float64,
    )


def norms() -> list[float]:
    """Of the clients' updates at their optimum."""
    return [float(spectrum()[:rank].norm()) for rank in RANKS]


def of_stacks(rounds: int) -> float:
    """What flora misses."""
    left = spectrum()
    for _ in range(rounds):
        left = (left * (1 - share())).sort(descending=True).values
    return energy(left)


CLOSED: dict[str, Callable[[int], float]] = {
    "flora": of_stacks,
    "delta-svd": lambda rounds: energy(spectrum() * (1 - share()) ** rounds),
    "flexlora": lambda rounds: energy(spectrum() * (1 - share())),
    "lora-fair": lambda rounds: energy(spectrum() * (1 - share())),
    "hetlora": lambda rounds: energy(spectrum() * (1 - share(norms()) ** 2)),
    "zero-pad": lambda rounds: energy(spectrum() * (1 - share() ** 2)),
}


if __name__ == "__main__":
    main()
