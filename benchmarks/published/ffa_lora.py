"""FFA-LoRA: A is frozen, B is trained and sent."""

from __future__ import annotations

from collections.abc import Iterator

from published.claim import Claim, Figure, Paper
from published.merging import drawn, exact, made, merged, missed, updates, worth, zeros_like
from published.planned import adapter_bytes, plan
from published.ranked import IT, alike, difference

PAPER = Paper("FFA-LoRA", "2403.12313", "https://arxiv.org/abs/2403.12313")
TARGETS = ["query", "value"]


def claims() -> Iterator[Claim]:
    """Half of the bytes, and an exact mean."""
    yield Claim(
        "bytes sent and delivered, as a share of LoRA's",
        where="abstract",
        setting="24 blocks of width 1,024, rank 8 on query and value, ffa beside zero-pad",
        changed="The blocks are those of BERT-large, which are as wide as RoBERTa-large's: no other sizes enter.",
        figures=(Figure("sent", "0.5000"), Figure("delivered", "0.5000")),
        measure=shares,
    )
    yield Claim(
        "the mean of B is the mean of the products",
        where="its method",
        setting="4 clients of weights 1 to 4, rank 4, one layer of 24 x 40, normal factors with one A for all; float64",
        figures=(Figure("relative error", "0", within=1e-12),),
        measure=lambda: [error()],
    )

    yield Claim(
        "FFA against FedIT, iid and under severe skew of labels",
        where="RoBERTa-large, MNLI-m: 87.13 against 86.90, and 85.05 against 82.03",
        setting=f"{IT}; 3 clients of rank 16, iid and Dirichlet 0.1, 10 rounds",
        figures=(Figure("iid", "+0.23"), Figure("severe skew", "+3.02")),
        slow=True,
        measure=lambda: [difference("ffa", "zero-pad", each) for each in (alike(3), alike(3, alpha=0.1))],
        found="With one layer a random A of 16 rows reads 16 directions of 384, and B alone cannot learn the task: of "
        "16 random directions ridge regression on all training texts has 0.30, of 64 0.52, of 256 0.69 and of "
        "all 0.71, where the best one of rank 16, whose directions are learned, has 0.68. So the rows of A are nearly "
        "all of the difference. Skew brings FFA nearer, as in the paper, but far from near enough.",
    )


def shares() -> list[float]:
    """Of what zero-pad sends and delivers."""
    ours, theirs = (
        plan("bert-large-uncased", 24, {"a": {"rank": 8}}, lora={"targets": TARGETS}, aggregation={"method": name})
        for name in ("ffa", "zero-pad")
    )
    return [adapter_bytes(ours, way) / adapter_bytes(theirs, way) for way in ("sent", "delivered")]


def error() -> float:
    """Of the merged adapter against the exact mean."""
    sent = updates([drawn(4, k, of=("B",)) for k in range(4)])
    return missed(worth(merged(made("ffa"), zeros_like(sent[0].adapters["layer"]), sent)), exact(sent))
