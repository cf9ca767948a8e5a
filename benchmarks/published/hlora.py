"""HLoRA: unequal ranks merged by factors, and by products that are reconstructed and cut again."""

from __future__ import annotations

from collections.abc import Iterator

from published.claim import Claim, Figure, Paper
from published.ranked import IT, alike, difference

PAPER = Paper("HLoRA", "an example of NVIDIA FLARE", "https://github.com/NVIDIA/NVFlare")
CLIENTS = {f"r{rank}": {"task_group": "news", "rank": rank} for rank in (4, 8, 16)}


def claims() -> Iterator[Claim]:
    """Which of the two is better."""
    yield Claim(
        "reconstructed above naive",
        where="ranks 4, 8, 16: 0.9414 against 0.8955; second seed 0.9366 against 0.8961",
        setting=f"{IT}; one client each of ranks 4, 8 and 16, iid, 10 rounds; flexlora against zero-pad",
        figures=(Figure("reconstructed - naive", "+4.59"),),
        slow=True,
        measure=lambda: [difference("flexlora", "zero-pad", {**alike(1), "clients": CLIENTS})],
    )
