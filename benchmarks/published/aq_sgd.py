"""AQ-SGD: a text's activations are sent as changes, so that errors of quantisation vanish as training settles."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from atlas_cli.config.schema.wire import WireConfig
from atlas_cli.wire.messages import Activations
from atlas_cli.wire.step_codecs import StepCodecs
from published.claim import Claim, Figure, Paper

PAPER = Paper("AQ-SGD", "2206.01299", "https://arxiv.org/abs/2206.01299")
VISITS, BITS = 4, 4
CHANGES = {"codec": "delta", "options": {"codec": "int4", "first": "int4", "options": {"block": None}}}


def claims() -> Iterator[Claim]:
    """What is left of an error."""
    yield Claim(
        "activations a that do not change: the error after n messages is at most the largest of a times 2^(-(q - 1) n)",
        where="its rule m <- m + Q(a - m)",
        setting=f"2 texts of 6 tokens at width 32, normal numbers, {BITS} bits, one scale a token; the figure is "
        "how many of "
        f"{VISITS} messages leave more",
        figures=(Figure("messages above the bound", "0", within=0),),
        measure=lambda: [above()],
    )


def above() -> float:
    """Messages after which what is decoded is further off."""
    wire = WireConfig.model_validate({"activations": CHANGES})
    both = StepCodecs.of(wire, 32, torch.float32, torch.float32, 0)
    states = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(0))
    found = 0
    for visit in range(1, VISITS + 1):
        message = both.number(Activations("a", states, torch.ones(2, 6, dtype=torch.bool)), [0, 1])
        got = both.decode(both.encode(message, (1, visit))).activations
        found += float((got - states).abs().max()) > float(states.abs().max()) * 2.0 ** (-(BITS - 1) * visit)
    return found
