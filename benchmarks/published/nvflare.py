"""NVFlare: weights quantised for the way."""

from __future__ import annotations

from collections.abc import Iterator

from published.claim import Claim, Figure, Paper
from published.qlora import bits

PAPER = Paper("NVIDIA FLARE 2.9", "message quantization", "https://github.com/NVIDIA/NVFlare")


def claims() -> Iterator[Claim]:
    """Shares of float32."""
    yield Claim(
        "size of quantised weights, in % of float32",
        where="table of message quantization",
        setting="all linear layers of the blocks of Llama 3.2 1B, `model.quantization` int8 and nf4, as clients are "
        "sent them",
        changed="Norms and embeddings stay float32 in atlas and are left out; int8 has a scale a row there, and "
        "blocks of 4,096 in NVFlare.",
        figures=(Figure("8 bits", "25.03"), Figure("4 bits", "14.06")),
        interval=0.005,
        ranked=True,
        measure=lambda: [100 * bits("llama-3.2-1b", name) / 32 for name in ("int8", "nf4")],
    )
