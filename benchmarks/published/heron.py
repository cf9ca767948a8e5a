"""HERON-SFL: what a step costs a client by backpropagation, with an auxiliary loss, and by forward passes."""

from __future__ import annotations

from collections.abc import Iterator

from atlas_cli.planning.memory_of_plan import client_memory
from atlas_cli.planning.plan import Plan
from atlas_cli.planning.round_bytes import full_shape
from atlas_cli.planning.step_flops import step_flops
from published.claim import Claim, Figure, Paper
from published.planned import plan, task_of

PAPER = Paper("HERON-SFL", "2601.09076", "https://arxiv.org/abs/2601.09076")
WAYS = {"SplitLoRA": "backprop", "CSE-FSL": "auxiliary", "HERON": "zeroth-order"}
SETTING = (
    "GPT-2 medium cut after block 6 of 24, rank 8 on `attn.c_attn`, language modelling, batches of 32 x 512 tokens, "
    "float32, one probe"
)
CHANGED = (
    "Batch and length could not be read. These are such that FLOPs are near the paper's own, so that only ratios to "
    "SplitLoRA are compared; those hardly depend on them."
)


def claims() -> Iterator[Claim]:
    """Table 3, as ratios."""
    yield Claim(
        "FLOPs of a local step of a client, relative to SplitLoRA's",
        where="table 3: 5.68, 9.48, 5.26 TFLOPs",
        setting=SETTING,
        changed=CHANGED,
        figures=(Figure("CSE-FSL", "1.669"), Figure("HERON", "0.926")),
        interval=0.05,
        ranked=True,
        measure=lambda: relative([flops(planned(way)) for way in WAYS.values()]),
    )
    yield Claim(
        "peak memory of a client, relative to SplitLoRA's",
        where="table 3: 4.59, 9.09, 4.03 GB",
        setting=SETTING,
        changed=CHANGED,
        figures=(Figure("CSE-FSL", "1.980"), Figure("HERON", "0.878")),
        interval=0.05,
        ranked=True,
        measure=lambda: relative([peak(planned(way)) for way in WAYS.values()]),
        found="CSE-FSL: logits of 50,257 words and their gradient in float32 are most of it, and half precision or "
        "a loss in pieces would halve them. HERON's clients compute a loss of their own; those of atlas have no "
        "head, and are told the gradient at the cut instead, so that they hold no logits.",
    )


def planned(learns: str) -> Plan:
    """The plan of a client that learns so."""
    return plan(
        "gpt2-medium",
        6,
        {"a": {"rank": 8, "learns": learns}},
        task="causal-lm",
        lora={"targets": ["attn.c_attn"]},
        training={"batch_size": 32, "max_length": 512, "zeroth_order": {"probes": 1}},
    )


def flops(plan: Plan) -> float:
    """Of a client's step."""
    client = plan.clients[0]
    return step_flops(plan, client, client.ranks, task_of(plan), full_shape(plan.config.training), "AB")[0].total


def peak(plan: Plan) -> float:
    """Bytes of a client at its peak."""
    return client_memory(plan, plan.clients[0], task_of(plan), full_shape(plan.config.training)).peak


def relative(values: list[float]) -> list[float]:
    """All but the first, by the first."""
    return [value / values[0] for value in values[1:]]
