"""What Crosses the Cut?: the messages that a correct run of a method shows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from published.claim import Claim, Figure, Paper
from published.trained import counted, inputs, run

PAPER = Paper("What Crosses the Cut?", "a measurement contract of twelve split methods")
STEPS, EVERY, ROUNDS = 4, 2, 2
SETTING = (
    f"GPT-2 of 4 blocks of width 32 cut in the middle, 2 clients, {ROUNDS} rounds of {STEPS} local steps, random "
    "weights; counted by the ledger of the run"
)
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "SplitFed V1": ({}, {"server_update": "per-client"}),
    "SplitFed V2": ({}, {"server_update": "sequential"}),
    "HO-SFL": ({"learns": "zeroth-order"}, {"zeroth_order": {"probes": 2}}),
    "Han et al.": ({"learns": "auxiliary"}, {"auxiliary": {"every": 1}}),
    "CSE-FSL": ({"learns": "auxiliary"}, {"auxiliary": {"every": EVERY}}),
}


def claims() -> Iterator[Claim]:
    """By method."""
    yield Claim(
        "gradients that come down, a local step",
        where="accounting by method",
        setting=SETTING,
        figures=tuple(Figure(way, "1" if way in ("SplitFed V1", "SplitFed V2", "HO-SFL") else "0", 0) for way in WAYS),
        measure=lambda: [per_step(way, "gradients", "down") for way in WAYS],
    )
    yield Claim(
        "activations that go up, a local step",
        where="accounting by method",
        setting=f"{SETTING}; CSE-FSL sends every {EVERY}nd",
        figures=tuple(Figure(way, f"{1 / EVERY}" if way == "CSE-FSL" else "1", 0) for way in WAYS),
        measure=lambda: [per_step(way, "activations", "up") for way in WAYS],
    )
    yield Claim(
        "HO-SFL: weights that cross, a client and round",
        where="accounting by method: scalars alone",
        setting=SETTING,
        figures=(Figure("up", "0", 0), Figure("down", "0", 0)),
        measure=lambda: [per_step("HO-SFL", "adapters", way) * STEPS for way in ("up", "down")],
        found="Clients of atlas that learn by forward passes take as many local steps as others, and their adapters "
        "are merged as those of others, at any ranks. Merging scalars needs one step a round and one adapter for all.",
    )


@cache
def messages(way: str) -> dict[tuple[str, str], int]:
    """Counts of a run, by kind and direction."""
    client, training = WAYS[way]
    with inputs():
        done = run(
            {name: {"rank": 2, **client} for name in "ab"},
            training={"rounds": ROUNDS, "local_steps": STEPS, "batch_size": 4, "max_length": 16, **training},
            aggregation={"method": "zero-pad"},
        )
        kinds = (("gradients", "down"), ("activations", "up"), ("adapters", "up"), ("adapters", "down"))
        return {each: counted(done, *each) for each in kinds}


def per_step(way: str, kind: str, direction: str) -> float:
    """Messages of a client in a local step."""
    return messages(way)[kind, direction] / (2 * ROUNDS * STEPS)
