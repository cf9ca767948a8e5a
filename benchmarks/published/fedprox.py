"""FedProx: clients are pulled back to what they were delivered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from published.claim import Claim, Figure, Paper
from published.trained import inputs, run

PAPER = Paper("FedProx", "1812.06127, and EdgeFlowerTune's documents", "https://arxiv.org/abs/1812.06127")


def claims() -> Iterator[Claim]:
    """Where it is FedAvg, and where it is not."""
    yield Claim(
        "with one local step a round it is FedAvg, whatever mu",
        where="the gradient of its term is 0 where a round begins",
        setting="GPT-2 of 4 blocks of width 32, random weights, 3 clients, 3 rounds, mu 10; the figure is the largest "
        "difference of losses in training and on the test part",
        figures=(Figure("difference", "0", within=0),),
        measure=lambda: [difference(1)],
    )


def difference(steps: int) -> float:
    """Of the losses with and without."""
    plain, pulled = losses(steps, {}), losses(steps, {"drift": {"name": "fedprox", "mu": 10.0}})
    return max(abs(a - b) for a, b in zip(plain, pulled, strict=True))


def losses(steps: int, drift: dict[str, Any]) -> list[float]:
    """By round."""
    training = {"rounds": 3, "local_steps": steps, "batch_size": 2, "max_length": 16, **drift}
    with inputs():
        done = run({name: {"rank": 2} for name in "abc"}, training=training, aggregation={"method": "zero-pad"})
        lines = [line for line in done.read_lines("metrics.jsonl") if line["round"]]
    return [loss for line in lines for loss in (line["train_loss"], line["test"]["loss"])]
