"""Fed-PLoRA: a client trains some components of the group's adapter, and runs the others frozen."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from atlas_cli.aggregation.contract import delta
from atlas_cli.testing.toy_clients import LAYERS, RANKS, ToyGroup
from published.claim import Claim, Figure, Paper
from published.merging import made, missed

PAPER = Paper("Fed-PLoRA", "2602.16936", "https://arxiv.org/abs/2602.16936", secondary=True)


def claims() -> Iterator[Claim]:
    """No noise at the start of a round."""
    yield Claim(
        "every client starts a round with the group's update, whatever its rank",
        where="initialisation noise 0",
        setting="clients of ranks 2, 4, 1 after two rounds, layers of 7 x 9 and 8 x 6, float64; the figure is the "
        "largest relative difference of what a client runs",
        figures=(Figure("fed-plora", "0", within=1e-12),),
        measure=lambda: [noise("fed-plora")],
    )


def noise(method: str) -> float:
    """The largest over clients and layers."""
    group = ToyGroup(made(method), RANKS, dtype=torch.float64)
    for _ in range(2):
        group.round()
    return max(missed(group.run_by(client, path), delta(group.current[path])) for client in RANKS for path in LAYERS)
