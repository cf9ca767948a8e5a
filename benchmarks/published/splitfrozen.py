"""SplitFrozen: clients run frozen blocks forward, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from atlas_cli.planning.plan import Plan
from atlas_cli.planning.round_bytes import full_shape
from atlas_cli.planning.step_flops import step_flops
from published.claim import Claim, Figure, Paper
from published.planned import messages, plan, task_of

PAPER = Paper("SplitFrozen", "2503.18986", "https://arxiv.org/abs/2503.18986")
BLOCKS, CUT = 12, 3


def claims() -> Iterator[Claim]:
    """Compute and bytes of a client."""
    yield Claim(
        "less compute of a client than with the whole model, in %",
        where="abstract",
        setting=f"GPT-2 cut after block {CUT} of {BLOCKS}, two classes, batches of 8 x 128 tokens, rank 8, beside a "
        "client that trains adapters in all blocks; FLOPs of a step",
        changed="The cut could not be read; 3 is that of SplitLite and SplitCom.",
        figures=(Figure("less compute", "86.8"),),
        interval=0.05,
        measure=lambda: [100 * (1 - work(CUT, "frozen") / work(BLOCKS, "backprop"))],
        found="The figure depends on the cut: a block more or less on the client is about 4 points.",
    )
    yield Claim(
        "bytes that come down to a client",
        where="its method",
        setting="as above, a round",
        figures=(Figure("in a step", "0", within=0), Figure("at the end of a round", "0", within=0)),
        measure=down,
    )


def planned(cut: int, learns: str) -> Plan:
    """The plan of a client with so many blocks."""
    client = {"learns": learns, "rank": 0 if learns == "frozen" else 8}
    server = {"rank": 8 if cut < BLOCKS else 0}
    return plan("gpt2", cut, {"a": client}, server=server, training={"batch_size": 8, "max_length": 128})


def work(cut: int, learns: str) -> float:
    """FLOPs of a client's step."""
    made = planned(cut, learns)
    client = made.clients[0]
    return step_flops(made, client, client.ranks, task_of(made), full_shape(made.config.training), "AB")[0].total


def down() -> list[float]:
    """In a step and after it."""
    sent = messages(planned(CUT, "frozen"))
    return [sent.step.down, sum(sent.end_down)]
