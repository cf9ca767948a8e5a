"""DSL-Aux: clients with a loss of their own, to which no gradient comes down."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from atlas_cli.planning.memory_of_plan import client_memory
from atlas_cli.planning.plan import Plan
from atlas_cli.planning.round_bytes import full_shape
from published.claim import Claim, Figure, Paper
from published.planned import messages, plan, task_of

PAPER = Paper("DSL-Aux", "2601.19261", "https://arxiv.org/abs/2601.19261", secondary=True)
SETTING = "GPT-2 cut after block 6 of 12, two classes, batches of 8 x 128 tokens, rank 8, an upload in every step"


def claims() -> Iterator[Claim]:
    """Traffic and memory beside training with gradients that come down."""
    yield Claim(
        "less traffic of a step than with gradients that come down, in %",
        where="abstract",
        setting=SETTING,
        changed="Model and cut could not be read: activations are as large at every cut.",
        figures=(Figure("less traffic", "50"),),
        interval=0.01,
        measure=lambda: [less(traffic)],
    )
    yield Claim(
        "less peak memory of a client, in %: up to",
        where="abstract",
        setting=SETTING,
        changed="What it is compared with, and the loss of its clients, could not be read.",
        figures=(Figure("less memory", "58"),),
        interval=0.05,
        measure=lambda: [less(peak)],
        found="A client with a loss of its own holds all that backpropagation holds, and a head. Less memory than "
        "that needs a client without a backward: `zeroth-order` or `frozen`.",
    )


def planned(learns: str) -> Plan:
    """The plan of a client that learns so."""
    training = {"batch_size": 8, "max_length": 128, "auxiliary": {"every": 1}}
    return plan("gpt2", 6, {"a": {"rank": 8, "learns": learns}}, server={"rank": 8}, training=training)


def less(cost: Callable[[Plan], float]) -> float:
    """In %, of an auxiliary client against one that gets gradients."""
    return 100 * (1 - cost(planned("auxiliary")) / cost(planned("backprop")))


def traffic(plan: Plan) -> float:
    """Bytes of a step, both ways."""
    step = messages(plan).step
    return step.up + step.down


def peak(plan: Plan) -> float:
    """Bytes of a client at its peak."""
    return client_memory(plan, plan.clients[0], task_of(plan), full_shape(plan.config.training)).peak
