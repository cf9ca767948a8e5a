"""FlexLoRA: the mean of the products, cut to each client's rank by its SVD."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from atlas_cli.aggregation.contract import delta
from published.claim import Claim, Figure, Paper
from published.merging import PATH, drawn, exact, made, merged, updates

PAPER = Paper("FlexLoRA", "2402.11505", "https://arxiv.org/abs/2402.11505")
RANKS = (2, 4, 8)


def claims() -> Iterator[Claim]:
    """The best update of each rank."""
    yield Claim(
        "a client of rank r gets the best approximation of the mean at that rank",
        where="its method (Eckart and Young 1936)",
        setting="clients of ranks 2, 4, 8 and weights 1 to 3, one layer of 24 x 40, normal factors, float64; the "
        "figure is the relative error less that of the dense mean without its smaller singular values",
        figures=tuple(Figure(f"r {rank}", "0", within=1e-12) for rank in RANKS),
        measure=excess,
    )


def excess() -> list[float]:
    """Error of what each rank is delivered, above the least that there is."""
    sent = updates([drawn(rank, rank) for rank in RANKS])
    wanted, method = exact(sent), made("flexlora")
    merge = merged(method, drawn(max(RANKS), "start"), sent)
    values = torch.linalg.svdvals(wanted)
    found = []
    for rank in RANKS:
        got = delta(method.deliver(merge.adapters, {}, {PATH: rank})[PATH])
        found.append(float(((got - wanted).norm() - values[rank:].norm()) / wanted.norm()))
    return found
