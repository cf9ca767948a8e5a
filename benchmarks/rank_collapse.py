"""Ranks that collapse: what merges do, round by round, to the part of an update that clients of rank 2 cannot hold.

    python benchmarks/rank_collapse.py                          seconds on a CPU
    python benchmarks/rank_collapse.py --rounds 8 --ranks 4 4 8

Clients of ranks 2, 2, 2, 2, 4, 4, 8 and 16 and of equal weight are delivered an update of rank 16 and send it back as
they got it: nobody trains, so whatever is lost is lost by the merge. Its singular values fall evenly from 1 to 0.6.
The figure is the energy beyond the least rank: the squares of the singular values after the first two, as a share of
all. "closed form" is that of a mean over all clients (flexlora): a client of rank r has component j if r >= j, so that
singular value j is multiplied every round by the weight of those that have it. Methods that average A and B apart
multiply both, and lose the square of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from rich import box
from rich.table import Table
from torch import Tensor

from atlas_cli.aggregation.contract import Context, Factors, Layer, Update, truncated
from atlas_cli.aggregation.low_rank import Svd, redistribute, svd
from atlas_cli.aggregation.selection import components
from atlas_cli.planning.method import load_method
from atlas_cli.reports.terminal import Terminal
from atlas_cli.seeding import torch_generator

RANKS = (2, 2, 2, 2, 4, 4, 8, 16)
METHODS = (
    *("flexlora", "flora-na", "lora-fair", "ffa", "zero-pad", "scaffold", "hetlora"),
    *("delta-svd", "raflora", "rolora", "fedsvd", "fed-plora", "trimmed-mean", "median"),
)
D_IN, D_OUT = 64, 48
PATH = "layer"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="idle rounds (default 4)")
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS, help="of the clients")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    given = parser.parse_args()
    least = min(given.ranks)
    table = Table("method", *(f"round {n}" for n in range(given.rounds + 1)), box=box.MARKDOWN)
    table.title = f"Energy beyond rank {least}; clients of ranks {', '.join(map(str, given.ranks))}"
    closed = [beyond(values, least) for values in closed_form(given.ranks, given.rounds)]
    for name, energies in [
        ("closed form", closed),
        *((m, collapse(m, given.ranks, given.rounds)) for m in given.methods),
    ]:
        table.add_row(name, *(f"{energy:.2g}" if energy < 0.01 else f"{energy:.3f}" for energy in energies))
    Terminal(width=120).print(table)


def spectrum(rank: int) -> Tensor:
    """The singular values before the first round."""
    return torch.linspace(1, 0.6, rank, dtype=torch.float64)


def beyond(singular_values: Tensor, rank: int) -> float:
    """The energy of all components after the first ``rank``, as a share of the whole."""
    energy = singular_values.square()
    return float(energy[rank:].sum() / energy.sum())


def closed_form(ranks: Sequence[int], rounds: int) -> list[Tensor]:
    """The singular values before the first and after each round of a mean over all clients, of which none trains."""
    share = torch.tensor([sum(rank > j for rank in ranks) / len(ranks) for j in range(max(ranks))], dtype=torch.float64)
    return [spectrum(max(ranks)) * share**number for number in range(rounds + 1)]


def collapse(name: str, ranks: Sequence[int], rounds: int) -> list[float]:
    """The energy beyond the least rank in a group's adapter, before the first and after each idle round."""
    method, current = load_method(name)(), {PATH: start(max(ranks))}
    weights: dict[int, float] = {rank: float(ranks.count(rank)) for rank in ranks}
    energies = []
    for number in range(rounds + 1):
        energies.append(beyond(svd(current[PATH]).S[: max(ranks)], min(ranks)))
        idle = []
        for k, rank in enumerate(ranks):
            shapes = method.extra_tensors({PATH: Layer(rank, D_IN, D_OUT)}).up
            own = components(method, str(k), number + 1, {PATH: rank}, current)
            held = current if own else truncated(current, {PATH: rank})
            idle.append(
                Update(str(k), 1.0, held, {n: torch.zeros(shape) for n, shape in shapes.items()}, components=own)
            )
        context = Context("g", number + 1, {PATH: weights}, number + 1)
        current = method.aggregate(current, idle, context).adapters
    return energies


def start(rank: int) -> Factors:
    """An update with this many orthogonal components, as a merge delivers it."""
    U, V = (
        torch.linalg.qr(torch.randn(d, rank, generator=torch_generator(0, side), dtype=torch.float64)).Q
        for side, d in (("U", D_OUT), ("V", D_IN))
    )
    room = Factors(V.new_zeros(rank, D_IN), U.new_zeros(D_OUT, rank))
    return redistribute(Svd(U, spectrum(rank), V.T), room)


if __name__ == "__main__":
    main()
