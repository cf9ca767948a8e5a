"""RoLoRA: A and B are trained in turns."""

from __future__ import annotations

from collections.abc import Iterator

from atlas_cli.aggregation.contract import TURNS
from published.claim import Claim, Figure, Paper
from published.merging import drawn, exact, made, merged, missed, updates, worth
from published.planned import adapter_bytes, plan
from published.ranked import IT, alike, difference

PAPER = Paper("RoLoRA", "2502.01755", "https://arxiv.org/abs/2502.01755", secondary=True)
READS = "The other way round: a random A of 16 rows reads 16 directions of 384, and there is one layer only."


def claims() -> Iterator[Claim]:
    """Half of the bytes, exact means, and which method is better."""
    yield Claim(
        "bytes sent in two rounds, as a share of LoRA's",
        where="its method",
        setting="24 blocks of width 1,024, rank 4 on query and value, rolora beside zero-pad",
        changed="The blocks are those of BERT-large, which are as wide as RoBERTa-large's: no other sizes enter.",
        figures=(Figure("share", "0.5000"),),
        measure=lambda: [bytes_sent("rolora") / bytes_sent("zero-pad")],
    )
    yield Claim(
        "the mean of the factor that is trained is the mean of the products",
        where="its method",
        setting="4 clients of weights 1 to 4, rank 4, one layer of 24 x 40, normal factors of which one is the same "
        "for all; float64",
        figures=(Figure("B trained", "0", within=1e-12), Figure("A trained", "0", within=1e-12)),
        measure=lambda: [error(turn, part) for turn, part in zip(TURNS, "BA", strict=True)],
    )
    clients = {**alike(50), "training.local_steps": 2}
    for name, where, printed, better, worse, found in (
        ("RoLoRA above FFA", "85.81 against 76.48", "+9.33", "rolora", "ffa", ""),
        ("FFA above LoRA", "76.48 against 70.72", "+5.76", "ffa", "zero-pad", READS),
        ("LoRA above FlexLoRA", "70.72 against 54.67", "+16.05", "zero-pad", "flexlora", "Why was not found out."),
    ):
        yield Claim(
            name,
            where=f"50 clients, r = 4, RoBERTa-large, mean over GLUE: {where}",
            setting=f"{IT}; 50 clients of rank 16, iid, 10 rounds of 2 steps",
            figures=(Figure("difference", printed),),
            found=found,
            slow=True,
            measure=lambda better=better, worse=worse: [difference(better, worse, clients)],
        )


def bytes_sent(method: str) -> int:
    """In an odd and an even round."""
    lora, aggregation = {"targets": ["query", "value"]}, {"method": method}
    planned = plan("bert-large-uncased", 24, {"a": {"rank": 4}}, lora=lora, aggregation=aggregation)
    return sum(adapter_bytes(planned, merge=turn) for turn in TURNS)


def error(turn: int, part: str) -> float:
    """Of a merge against the exact mean."""
    sent = updates([drawn(4, k, of=(part,)) for k in range(4)])
    return missed(worth(merged(made("rolora"), drawn(4, "start", of=(part,)), sent, turn)), exact(sent))
