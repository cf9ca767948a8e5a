"""What merges make of clients that train to their optimum: one matrix to fit, with ranks that cannot hold it.

    python benchmarks/shared_target.py                   seconds on a CPU
    python benchmarks/shared_target.py --ratio 0.6       a target whose singular values fall fast

Clients of ranks 2 (six), 8 (two) and 16 (two) and of equal weight all fit one target of rank 16, whose singular values
fall evenly from 1 to 0.6 (or each to ``--ratio`` of the one before), and reach their optimum in every round: the best
update of their rank for what is left (Eckart and Young, 1936), or the best factor for one that is fixed. So all that
differs is the merge. The figure is the energy of the target that the group's update misses, norm(target - dW)^2 /
norm(target)^2, and what a client of rank 2 misses in the end. "closed form" is theory's figure for the last round; p_j
is the share of the clients whose rank is at least j:

    flexlora, lora-fair   component j comes to p_j sigma_j in round 1, and stays there
    zero-pad              A and B are each multiplied by p_j: p_j^2 sigma_j
    hetlora               the same with p_j weighted by the norms of the clients' updates
    raflora               each component is a mean over those that have it: nothing is missing after round 1
    delta-svd             a round adds p_j of what is missing: (1 - p_j)^t sigma_j are missing after t rounds
    flora                 clients fit what the base misses, so that those of rank 2 go on to other components: what is
                          missing of the k-th largest is multiplied by 1 - p_k, and is sorted anew

The closed form of delta-svd holds while the group's components lie exactly as the target's. Let components r and r + 1
be turned into each other by a small angle: a client of rank r sees of it g = sigma_r / (sigma_r - sigma_(r + 1)) times
what the group's update is off, and undoes that; clients of larger rank see it once. With weights w and v of the two,
the group is off by 1 - v - w g times as much after a round, so that turns grow where v + w g > 2. For the least rank
(v = 1 - w) that is sigma_(r + 1) / sigma_r > 1 / (1 + w): 0.625 with six clients of ten. Rounding is enough to start.
With a server rate (``--lr``) the bound is 1 / (1 + w lr / (2 - lr)), and 1 - lr p_j takes the place of 1 - p_j.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from rich import box
from rich.table import Table
from torch import Tensor

from atlas_cli.aggregation.contract import Context, Factors, Update, truncated
from atlas_cli.aggregation.low_rank import Svd, redistribute
from atlas_cli.aggregation.merge_optimizer import MergeOptimizer, Rule
from atlas_cli.config.schema.aggregation import MergeOptimizerConfig
from atlas_cli.models.adapters.lora import initial_A
from atlas_cli.planning.method import load_method
from atlas_cli.reports.terminal import Terminal
from atlas_cli.seeding import torch_generator

RANKS = (2,) * 6 + (8,) * 2 + (16,) * 2
METHODS = (
    *("raflora", "flora", "fedex", "delta-svd", "trimmed-mean", "rolora", "fedsvd", "ffa"),
    *("flexlora", "lora-fair", "flora-na", "hetlora", "zero-pad", "median"),
)
SHOWN = (1, 2, 5, 10)
D_IN, D_OUT = 64, 48
PATH = "layer"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="rounds of all clients (default 40)")
    parser.add_argument("--ratio", type=float, help="of a singular value to the one before")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--lr", type=float, default=1.0, help="of aggregation.optimizer: sgd (default 1: none)")
    given = parser.parse_args()
    shown = sorted({n for n in SHOWN if n < given.rounds} | {given.rounds})
    table = Table("method", *(f"round {n}" for n in shown), "closed form", "at rank 2", box=box.MARKDOWN)
    spectrum = even() if given.ratio is None else given.ratio ** torch.arange(max(RANKS), dtype=torch.float64)
    for name in given.methods:
        group, least = missing(name, spectrum, given.rounds, given.lr)
        closed = CLOSED[name](spectrum, given.rounds) if name in CLOSED and given.lr == 1 else None
        figures = [*(group[n - 1] for n in shown), closed, least[-1]]
        table.add_row(name, *("" if figure is None else f"{figure:.3f}" for figure in figures))
    Terminal(width=120).print(table)


def even() -> Tensor:
    """Singular values of a target."""
    return torch.linspace(1, 0.6, max(RANKS), dtype=torch.float64)


def missing(name: str, spectrum: Tensor, rounds: int, lr: float = 1.0) -> tuple[list[float], list[float]]:
    """What the group's update misses after each round, and what the least client's misses."""
    U, V = (torch.linalg.qr(_drawn(side, d, max(RANKS))).Q for side, d in (("U", D_OUT), ("V", D_IN)))
    target = U * spectrum @ V.T
    method, base = load_method(name)(), torch.zeros_like(target)
    stepping = MergeOptimizer(Rule.of(MergeOptimizerConfig(lr=lr)), method)
    A = initial_A(max(RANKS), D_IN, torch_generator(0, "A")).double()
    current = {PATH: Factors(A, A.new_zeros(D_OUT, max(RANKS)))}
    weights = {rank: float(RANKS.count(rank)) for rank in RANKS}
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(1, rounds + 1):
        updates = []
        for k, rank in enumerate(RANKS):
            start = truncated(current, {PATH: rank})[PATH]
            held = base - start.B @ start.A if method.CHANGES_BASE else base
            trained = method.parts_of(number).trained
            updates.append(Update(str(k), 1.0, {PATH: optimum(start, target - held, trained)}))
        merge = method.aggregate(current, updates, Context("g", number, {PATH: weights}, number))
        merge = stepping.step("g", current, merge, updates)
        current = merge.adapters
        for change in merge.base.values():
            base = base + change.B @ change.A
        for rank, figures in zip((max(RANKS), min(RANKS)), found, strict=True):
            has = method.deliver(current, {}, {PATH: rank})[PATH]
            reached = base if method.CHANGES_BASE else has.B @ has.A
            figures.append(float((target - reached).square().sum() / target.square().sum()))
    return found


def optimum(start: Factors, wanted: Tensor, trained: Sequence[str]) -> Factors:
    """The best update of a client's rank for what is wanted; where one factor is trained, the best for the other."""
    if "A" not in trained:
        return Factors(start.A, wanted @ torch.linalg.pinv(start.A))
    if "B" not in trained:
        return Factors(torch.linalg.pinv(start.B) @ wanted, start.B)
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


def by_norm(spectrum: Tensor) -> Tensor:
    """p_j with clients weighted by the norms of their updates."""
    return share([float(spectrum[:rank].norm()) for rank in RANKS])


def of_stacks(spectrum: Tensor, rounds: int) -> Tensor:
    """The components that flora misses."""
    left = spectrum
    for _ in range(rounds):
        left = (left * (1 - share())).sort(descending=True).values
    return left


def _closed(left: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], float]:
    """The energy of the missing components, as a share of the target's."""
    return lambda spectrum, rounds: float(left(spectrum, rounds).square().sum() / spectrum.square().sum())


CLOSED = {
    "flora": _closed(of_stacks),
    "raflora": _closed(lambda spectrum, rounds: 0 * spectrum),
    "delta-svd": _closed(lambda spectrum, rounds: spectrum * (1 - share()) ** rounds),
    "flexlora": _closed(lambda spectrum, rounds: spectrum * (1 - share())),
    "lora-fair": _closed(lambda spectrum, rounds: spectrum * (1 - share())),
    "hetlora": _closed(lambda spectrum, rounds: spectrum * (1 - by_norm(spectrum) ** 2)),
    "zero-pad": _closed(lambda spectrum, rounds: spectrum * (1 - share() ** 2)),
}


if __name__ == "__main__":
    main()
