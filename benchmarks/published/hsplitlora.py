"""HSplitLoRA: ranks that fit the budgets of devices, and an aggregation without noise."""

from __future__ import annotations

import random
from collections.abc import Iterator

from atlas_cli.planning.ranks.rules import RankProblem, allocate
from published.claim import Claim, Figure, Paper
from published.merging import drawn, exact, made, merged, missed, updates, worth, zeros_like

PAPER = Paper("HSplitLoRA", "2505.02795", "https://arxiv.org/abs/2505.02795", secondary=True)
DRAWS, LAYERS = 200, 6


def claims() -> Iterator[Claim]:
    """A merge, and ranks."""
    yield Claim(
        "the concatenation of unequal adapters is the mean of the products",
        where="its noise-free aggregation",
        setting="clients of ranks 2, 4, 8 and weights 1 to 3, one layer of 24 x 40, normal factors, float64; flora",
        figures=(Figure("relative error", "0", within=1e-12),),
        measure=lambda: [error()],
    )
    yield Claim(
        "ranks keep to a device's budget, and grow with it and with the importance of a layer",
        where="its configuration of ranks by importance and budget",
        setting=f"{DRAWS} draws of {LAYERS} layers with importance from Exp(1), a cost of 1 to 4 a unit of rank, and a "
        "budget; then one that is a half larger, or one layer that is twice as important",
        changed="Its rule could not be read; `rank: auto` of atlas takes the longest prefix of increments by gain for "
        "their cost.",
        figures=tuple(
            Figure(name, "0", within=0)
            for name in ("over the budget", "a lower rank with more budget", "a lower rank of a layer that counts more")
        ),
        measure=violations,
    )


def error() -> float:
    """Of what the base changes by."""
    sent = updates([drawn(rank, rank) for rank in (2, 4, 8)])
    return missed(worth(merged(made("flora"), zeros_like(drawn(8, "start")), sent)), exact(sent))


def violations() -> list[float]:
    """Draws in which one of the three is broken."""
    draw, over, shrunk, lost = random.Random(0), 0, 0, 0
    for _ in range(DRAWS):
        importance = {layer: draw.expovariate(1) for layer in range(LAYERS)}
        costs = {layer: {"memory": draw.uniform(1, 4)} for layer in range(LAYERS)}
        budget, raised = draw.uniform(30, 300), draw.randrange(LAYERS)
        found = [
            allocate(RankProblem(values, costs, {"memory": most}, {}, 1, 64))
            for values, most in (
                (importance, budget),
                (importance, 1.5 * budget),
                ({**importance, raised: 2 * importance[raised]}, budget),
            )
        ]
        before, more, other = (each.ranks for each in found)
        over += any(
            sum(costs[layer]["memory"] * rank for layer, rank in each.ranks.items()) > each.budgets["memory"]
            for each in found
        )
        shrunk += any(more[layer] < before[layer] for layer in before)
        lost += other[raised] < before[raised]
    return [over, shrunk, lost]
