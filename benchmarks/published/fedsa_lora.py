"""FedSA-LoRA: A is shared, B stays with the client."""

from __future__ import annotations

from collections.abc import Iterator

from published.claim import Claim, Figure, Paper
from published.planned import adapter_bytes, plan

PAPER = Paper("FedSA-LoRA", "2410.01463", "https://arxiv.org/abs/2410.01463")


def claims() -> Iterator[Claim]:
    """What a client sends."""
    yield Claim(
        "numbers that a client sends in a round",
        where="closed form of its RoBERTa-large runs",
        setting="24 blocks of width 1,024, rank 8 on query and value",
        changed="The blocks are those of BERT-large, which are as wide as RoBERTa-large's: no other sizes enter.",
        figures=(Figure("LoRA", "786,432"), Figure("FFA-LoRA", "393,216"), Figure("FedSA-LoRA", "393,216")),
        measure=lambda: [sent(name) for name in ("zero-pad", "ffa", "fedsa")],
    )


def sent(method: str) -> float:
    """Numbers of 4 bytes."""
    lora, aggregation = {"targets": ["query", "value"]}, {"method": method}
    return adapter_bytes(plan("bert-large-uncased", 24, {"a": {"rank": 8}}, lora=lora, aggregation=aggregation)) / 4
