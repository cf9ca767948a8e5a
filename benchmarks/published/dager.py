"""DAGER: tokens from gradients, while there are fewer of them than the gradient's rank."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from golden_inputs import WORDS

from atlas_cli.audit.attacks.dager import Attack
from atlas_cli.audit.evidence import Evidence
from published.claim import Claim, Figure, Paper
from published.trained import inputs, run

PAPER = Paper("DAGER", "2405.15586", "https://arxiv.org/abs/2405.15586")
RANK = 8
TOKENS = (4, 7, 8, 9, 12)
TEXTS = 20


def claims() -> Iterator[Claim]:
    """A limit that is sharp."""
    yield Claim(
        f"share of the distinct tokens of a text recovered, by its length at rank {RANK}",
        where="its condition, that tokens are fewer than the rank",
        setting=f"GPT-2 of 4 blocks of width 32, LoRA of rank {RANK}, one text a batch, two classes, "
        f"updates of round 2 by one plain gradient step, {TEXTS} texts a length",
        changed="With LoRA the rank is that of A, not the width. A text of exactly so many tokens is within the "
        "rank, too.",
        figures=tuple(Figure(f"{n} tokens", "1" if n <= RANK else "0", within=0.02) for n in TOKENS),
        ranked=True,
        measure=lambda: [recovered(n) for n in TOKENS],
        found="One token too many costs one direction of the span; tokens that hardly take part in it are still found. "
        "That the order is enough was said after the first measurement.",
    )


def recovered(tokens: int) -> float:
    """By the attack, over the texts of clients with one each."""
    with inputs() as folder:
        write_texts(folder / "texts.csv", tokens)
        done = run(
            {"a": {"rank": RANK, "count": TEXTS}},
            group={"task": "sequence-classification", "data": {"files": str(folder / "texts.csv")}},
            training={
                **{"rounds": 2, "local_steps": 1, "batch_size": 1, "max_length": 16},
                "client_optimizer": {"name": "sgd", "lr": 30.0},
            },
            audit={"record": {"rounds": [2]}},
        )
        return Attack("dager").attack(Evidence.of_run(done)).value


def write_texts(path: Path, tokens: int) -> None:
    """Texts of so many different words."""
    draw = random.Random(0)
    rows = [draw.sample(WORDS, tokens) for _ in range(6 * TEXTS)]
    lines = ["text,label", *(f"{' '.join(row)},{'ab'[i % 2]}" for i, row in enumerate(rows))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
