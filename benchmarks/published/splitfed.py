"""SplitFed: the server steps for one client after the other (V2), or on a copy for each (V1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from published.claim import Claim, Figure, Paper
from published.trained import inputs, run

PAPER = Paper("SplitFed", "2004.12088", "https://arxiv.org/abs/2004.12088")
ROUNDS = 4
SETTING = "GPT-2 of 4 blocks of width 32 cut in the middle, random weights, labels by the tone of a sentence"
DIFFERENCE = "the figure is the largest difference of losses"


def claims() -> Iterator[Claim]:
    """Where its versions are one algorithm."""
    for optimizer, found in (
        ("sgd", ""),
        ("adamw", "A copy's moments start anew in each round, since there is no mean of moments; V2's go on."),
    ):
        yield Claim(
            f"with one client, V1 is V2 ({optimizer} on the server)",
            where="its algorithms, of plain gradient descent",
            setting=f"{SETTING}; {ROUNDS} rounds of 3 steps, learning rate 0.01; {DIFFERENCE} in training and on "
            "the test part",
            figures=(Figure("V1 against V2", "0", within=1e-6), Figure("pooled against V2", "0", within=1e-6)),
            measure=lambda optimizer=optimizer: differences(
                "a",
                ("per-client", "pooled"),
                "sequential",
                local_steps=3,
                server_optimizer={"name": optimizer, "lr": 0.01},
            ),
            found=found,
        )
    yield Claim(
        "with one step of plain gradient descent a round, the mean of V1's copies is one step on all batches",
        where="its algorithm 1",
        setting=f"{SETTING}; 3 clients that count alike, batches of 2, {ROUNDS} rounds, learning rate 0.05; "
        f"{DIFFERENCE}",
        figures=(Figure("V1 against pooled", "0", within=1e-6),),
        measure=lambda: differences(
            "abc",
            ("per-client",),
            "pooled",
            local_steps=1,
            max_grad_norm=None,
            server_optimizer={"name": "sgd", "lr": 0.05},
        ),
        found="At a learning rate of 0.5, where the loss goes up and down, rounding grows to 7e-6 in 4 rounds.",
    )
    yield Claim(
        "a split changes nothing: the loss and gradients of the model that is not split",
        where="section 2, split learning",
        setting=f"{SETTING}; what `atlas train` verifies before the first step, of one client",
        figures=(Figure("loss", "0", within=1e-6), Figure("gradients", "0", within=1e-5)),
        measure=proof,
    )


def differences(clients: str, ways: Sequence[str], against: str, **training: Any) -> list[float]:
    """The largest difference of the losses of each way."""
    curves = {way: losses(clients, server_update=way, **training) for way in (*ways, against)}
    return [max(abs(a - b) for a, b in zip(curves[way], curves[against], strict=True)) for way in ways]


def losses(clients: str, **training: Any) -> list[float]:
    """In training and on the test part, by round."""
    with inputs():
        done = run(
            {name: {"rank": 2} for name in clients},
            training={"rounds": ROUNDS, "batch_size": 2, "max_length": 16, **training},
            aggregation={"method": "zero-pad", "weights": "uniform"},
        )
        lines = [line for line in done.read_lines("metrics.jsonl") if line["round"]]
    return [loss for line in lines for loss in (line["train_loss"], line["test"]["loss"])]


def proof() -> list[float]:
    """As the run found it."""
    with inputs():
        done = run({"a": {"rank": 2}}, training={"rounds": 1, "batch_size": 2, "max_length": 16})
        found = done.read_json("manifest.json")["verify"]["g"]
    return [found["loss_difference"], found["gradient_difference"]]
