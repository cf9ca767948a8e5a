"""FedSVD: B is trained, and the merged adapter is turned so that A has orthonormal rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from atlas_cli.aggregation.contract import Factors, delta
from published.claim import Claim, Figure, Paper
from published.merging import PATH, drawn, exact, made, merged, missed, updates
from published.planned import adapter_bytes, plan

PAPER = Paper("FedSVD", "2505.12805", "https://arxiv.org/abs/2505.12805")


def claims() -> Iterator[Claim]:
    """Exact, orthonormal, and what it costs."""
    yield Claim(
        "the merged adapter is the mean of the products, and A A' = I",
        where="its method",
        setting="4 clients of weights 1 to 4, rank 4, one layer of 24 x 40, normal factors with one A for all, float64",
        figures=(Figure("relative error", "0", within=1e-12), Figure("largest entry of A A' - I", "0", within=1e-12)),
        measure=merge,
    )
    yield Claim(
        "bytes, as a share of LoRA's",
        where="its method",
        setting="24 blocks of width 1,024, rank 8 on query and value",
        changed="The blocks are those of BERT-large, which are as wide as RoBERTa-large's: no other sizes enter.",
        figures=(Figure("sent", "0.5000"), Figure("delivered", "1.0000")),
        measure=shares,
    )


def merge() -> list[float]:
    """Error and departure from orthonormal rows."""
    sent = updates([drawn(4, k, of=("B",)) for k in range(4)])
    merged_at = merged(made("fedsvd"), sent[0].adapters[PATH], sent).adapters[PATH]
    A = merged_at.A
    return [missed(delta(Factors(*merged_at)), exact(sent)), float((A @ A.T - torch.eye(4, dtype=A.dtype)).abs().max())]


def shares() -> list[float]:
    """Of what zero-pad sends and delivers."""
    ours, theirs = (
        plan(
            "bert-large-uncased",
            24,
            {"a": {"rank": 8}},
            lora={"targets": ["query", "value"]},
            aggregation={"method": name},
        )
        for name in ("fedsvd", "zero-pad")
    )
    return [adapter_bytes(ours, way) / adapter_bytes(theirs, way) for way in ("sent", "delivered")]
