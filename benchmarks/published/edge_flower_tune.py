"""EdgeFlowerTune: the size of an adapter upload."""

from __future__ import annotations

from collections.abc import Iterator

from atlas_cli.planning.plan import Plan
from atlas_cli.wire.messages import Adapters
from published.claim import Claim, Figure, Paper
from published.planned import messages, plan

PAPER = Paper("EdgeFlowerTune", "2605.08636", "https://arxiv.org/abs/2605.08636")
BYTES = {4: "1,486,080", 8: "2,960,640", 16: "5,909,760"}
SIZES = {"hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18}  # of Gemma 3 270M; heads as in 1B
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


def claims() -> Iterator[Claim]:
    """What is uploaded."""
    yield Claim(
        "bytes of an uploaded adapter, r = 4, 8, 16",
        where="report of the repository",
        setting="Gemma 3 270M, all 18 layers on the client, adapters on q, k, v and o, float32",
        figures=tuple(Figure(f"r {rank}", printed) for rank, printed in BYTES.items()),
        interval=0.01,
        ranked=True,
        measure=lambda: [uploaded(rank) for rank in BYTES],
        found="The numbers themselves are equal: 4 bytes for each of r x 18 x 5,120. What differs is what names them, "
        "0.2 % at r = 4: 80 bytes a tensor there, and here the header of safetensors.",
    )
    yield Claim(
        "the same without what names the tensors",
        where="report of the repository",
        setting="as above; 80 bytes for each of 144 tensors taken off the published figures",
        figures=tuple(Figure(f"r {r}", f"{int(text.replace(',', '')) - 80 * 144:,}") for r, text in BYTES.items()),
        ranked=True,
        measure=lambda: [payload(rank) for rank in BYTES],
    )


def of_rank(rank: int) -> Plan:
    """The plan of a client that holds the whole model, by its sizes: its weights have a licence to be accepted."""
    return plan("gemma-3-1b", 18, {"a": {"rank": rank}}, config=SIZES, lora={"targets": TARGETS})


def uploaded(rank: int) -> int:
    """Bytes of the message, as serialised."""
    return sum(messages(of_rank(rank)).end_up)


def payload(rank: int) -> int:
    """Bytes of its tensors."""
    planned = of_rank(rank)
    return Adapters.closed_form(planned.clients[0].ranks, planned.features)
