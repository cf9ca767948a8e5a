"""Privacy-aware split federated learning: client memory by the number of its layers, in a closed form."""

from __future__ import annotations

from collections.abc import Iterator

from memory import of_bert

from published.claim import Claim, Figure, Paper

PAPER = Paper("Privacy-aware split federated learning", "10.1109/JIOT.2025.3600269", secondary=True)
SETTING = "BERT-base, batches of 16 x 128 tokens, rank 16 on query and value, AdamW, float32"


def claims() -> Iterator[Claim]:
    """Memory, and what follows from it."""
    yield Claim(
        "client memory, MB, by its layers",
        where="closed form for BERT-base",
        setting=f"{SETTING}; weights, adapters, gradients, moments and what is saved for backward of the blocks alone",
        figures=(Figure("4 layers", "706"), Figure("12 layers", "2118")),
        interval=0.10,
        ranked=True,
        measure=lambda: [memory(4), memory(12)],
        found="The published formula gives its own figures at r = 64 and in MiB. It counts what is saved as if all "
        "were trained with dropout: attention scores (10 B N S^2), which fused attention does not save, and the "
        "inputs of frozen layers (most of 68 B S H), which no gradient needs; atlas' figure is what a step really "
        "saves.",
    )
    yield Claim(
        "less client memory with 4 layers of 12, in %",
        where="from the same",
        setting=f"{SETTING}; as above",
        figures=(Figure("less memory", "66.7"),),
        interval=0.05,
        measure=lambda: [100 * (1 - memory(4) / memory(12))],
        found="Not quite a third is left, since the lowest block saves less: nothing below it needs a gradient.",
    )
    yield Claim(
        "less time, energy and leakage, in %",
        where="abstract",
        setting="its devices, rates and data",
        figures=(Figure("time", "24"), Figure("energy", "40"), Figure("leakage", "7")),
        measure=lambda: [None, None, None],
        found="Neither devices nor rates could be read, and atlas' clock and energy follow from them.",
    )


def memory(layers: int) -> float:
    """In MB."""
    return sum(of_bert(layers, 16)) / 1e6
