"""MIRA: task models pull each other along the edges of a graph."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from atlas_cli.aggregation.contract import Factors, delta
from atlas_cli.aggregation.mixing import laplacian_matrix, mix
from published.claim import Claim, Figure, Paper
from published.merging import D_IN, D_OUT, PATH, drawn, missed

PAPER = Paper("MIRA", "2410.15524", "https://arxiv.org/abs/2410.15524")
RANK, STRENGTH = 2, 0.3


def claims() -> Iterator[Claim]:
    """The step of the server."""
    yield Claim(
        "W_k <- W_k - eta lambda sum_l a_kl (W_k - W_l)",
        where="update of the server",
        setting="three task groups of rank 2 in adapters that have room for 6, one layer of 24 x 40, float64, edges "
        ".2, .5 and .9; eta lambda is 0.3 by the largest degree; the figure is the largest relative difference from "
        "the equation",
        changed="In the paper clients are the nodes; in atlas task groups are, and edges come from their cosines.",
        figures=(Figure("difference", "0", within=1e-12),),
        measure=lambda: [difference()],
    )


def difference() -> float:
    """Of the mixed updates from those of the equation."""
    edges = torch.tensor([[0.0, 0.2, 0.5], [0.2, 0.0, 0.9], [0.5, 0.9, 0.0]], dtype=torch.float64)
    groups = {name: {PATH: padded(drawn(RANK, name))} for name in "abc"}
    found = mix(groups, laplacian_matrix(edges, STRENGTH))
    before = [delta(groups[name][PATH]) for name in "abc"]
    step = STRENGTH / float(edges.sum(1).max())
    wanted = [
        W - step * sum(a * (W - V) for a, V in zip(row, before, strict=True))
        for W, row in zip(before, edges, strict=True)
    ]
    return max(missed(delta(found[name][PATH]), W) for name, W in zip("abc", wanted, strict=True))


def padded(factors: Factors) -> Factors:
    """The same update in an adapter of three times the rank."""
    room = 2 * RANK
    return Factors(
        torch.cat([factors.A, factors.A.new_zeros(room, D_IN)]),
        torch.cat([factors.B, factors.B.new_zeros(D_OUT, room)], 1),
    )
