"""RAVAN: small square heads between fixed bases."""

from __future__ import annotations

from collections.abc import Iterator

from published.claim import Claim, Figure, Paper
from published.ranked import IT, alike, difference

PAPER = Paper("RAVAN", "2506.05568", "https://arxiv.org/abs/2506.05568")
LORA = alike(6, alpha=0.5)
HEADS = {**LORA, "aggregation.options": {"heads": 4, "size": 55}}  # 4 x 55^2 numbers; rank 16 has 16 x 768


def claims() -> Iterator[Claim]:
    """Better than methods of as many numbers."""
    for name, method, found in (
        ("FedIT", "zero-pad", "With as many numbers: its bases are drawn and stay, where FedIT trains both factors."),
        ("FFA", "ffa", "Far more so than there, as a random A of 16 rows reads 16 directions of 384."),
    ):
        yield Claim(
            f"RAVAN above {name}",
            where="abstract: 2 to 8 points over prior methods",
            setting=f"{IT}; 6 clients, Dirichlet 0.5, 10 rounds; 4 heads of 55 x 55, 12,100 numbers, against "
            "rank 16, 12,288",
            changed="Which methods the abstract means could not be read; the least that it says is taken.",
            figures=(Figure("difference", "+2"),),
            found=found,
            slow=True,
            measure=lambda method=method: [difference("ravan", method, HEADS, LORA)],
        )
