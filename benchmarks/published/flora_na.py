"""FLoRA-NA: weights of A and of B that bring the product of two means nearest to the exact mean."""

from __future__ import annotations

from collections.abc import Iterator

from published.claim import Claim, Figure, Paper
from published.merging import drawn, exact, made, merged, missed, updates, worth

PAPER = Paper("FLoRA-NA", "2509.26399", "https://arxiv.org/abs/2509.26399", secondary=True)
DRAWS = 50


def claims() -> Iterator[Claim]:
    """Nearer than the mean of factors."""
    yield Claim(
        "its error is below that of FedIT, and not below that of the best of its rank",
        where="its method; the second half is Eckart and Young's",
        setting=f"{DRAWS} draws of 4 clients of weights 1 to 4, rank 4, one layer of 24 x 40, normal factors, float64",
        figures=(Figure("draws above zero-pad", "0", within=0), Figure("draws below flexlora", "0", within=0)),
        measure=violations,
    )


def violations() -> list[float]:
    """Draws in which either does not hold."""
    above = below = 0
    for draw in range(DRAWS):
        sent, start = updates([drawn(4, draw, k) for k in range(4)]), drawn(4, draw, "start")
        best, found, mean = (
            missed(worth(merged(made(name), start, sent)), exact(sent)) for name in ("flexlora", "flora-na", "zero-pad")
        )
        above, below = above + (found > mean), below + (found < best - 1e-12)
    return [above, below]
