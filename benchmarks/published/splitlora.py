"""SplitLoRA: the numbers that a client trains."""

from __future__ import annotations

from collections.abc import Iterator

from published.claim import Claim, Figure, Paper
from published.planned import adapter_bytes, plan

PAPER = Paper("SplitLoRA", "2407.00952", "https://github.com/FDU-INC/Split_LoRA")
BLOCKS = {"GPT-2": ("gpt2", 3), "GPT-2 medium": ("gpt2-medium", 3)}


def claims() -> Iterator[Claim]:
    """By the model file of its repository."""
    yield Claim(
        "numbers that a client trains at rank 2",
        where="splitmodel.py of the repository: 3 blocks on the client, query and value of `c_attn` adapted, which is "
        "3 r (2 d + 2 d)",
        setting="GPT-2 and GPT-2 medium cut after block 3, rank 2 (`lora_dim` of its command) on `attn.c_attn`",
        changed="atlas adapts `c_attn` whole, as one layer of d x 3 d: r (d + 3 d), which is as many numbers.",
        figures=(Figure("GPT-2", "18,432"), Figure("GPT-2 medium", "24,576")),
        measure=lambda: [numbers(model, cut) for model, cut in BLOCKS.values()],
    )


def numbers(model: str, cut: int) -> float:
    """Of a client's adapter, of 4 bytes each."""
    planned = plan(model, cut, {"a": {"rank": 2}}, task="causal-lm", lora={"targets": ["attn.c_attn"]})
    return adapter_bytes(planned) / 4
