"""SplitLite: changes of activations and gradients as thin products, and what they are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from atlas_cli.config.schema.wire import WireConfig
from atlas_cli.models.files.architectures import built_in
from atlas_cli.wire.step_codecs import StepCodecs
from published.claim import Claim, Figure, Paper

PAPER = Paper("SplitLite", "2608.23018", "https://arxiv.org/abs/2608.23018", secondary=True)
MODELS = ("qwen2.5-1.5b", "qwen2.5-3b", "gemma-3-1b", "llama-3.2-3b")
RANK, TOKENS, EPOCHS = 16, 128, 10
SETTING = f"one text of {TOKENS} tokens at the widths of the models, against 16 bits a number; bytes of the tensors "
"sent"
WIRE = {
    "activations": {"codec": "delta", "options": {"codec": "low-rank", "options": {"rank": 2 * RANK, "bits": 4}}},
    "gradients": {"codec": "low-rank", "options": {"rank": 4 * RANK, "bits": 8}},
}
AQ_SGD = {
    "activations": {"codec": "delta", "options": {"codec": "int4", "options": {"block": None}}},
    "gradients": {"codec": "int8"},
}
RANDOM = {"activations": {"codec": "random-top-k", "options": {"share": 0.3, "numbers": "bfloat16"}}}


def claims() -> Iterator[Claim]:
    """Table 1."""
    yield Claim(
        "uplink and total, in % of SplitLoRA's",
        where="table 1",
        setting=f"{SETTING}; r 16, changes at rank 32 in 4 bits up, gradients at rank 64 in 8 bits down; a text "
        "that was sent before",
        figures=tuple(
            Figure(f"{model}, {what}", text)
            for what, row in (("up", ("6.8", "6.6", "6.9", "6.5")), ("total", ("16.9", "16.6", "17.4", "16.3")))
            for model, text in zip(MODELS, row, strict=True)
        ),
        interval=0.02,
        ranked=True,
        measure=lambda: [share(WIRE, model, up_only=each) for each in (True, False) for model in MODELS],
        found="Two scales of 4 bytes a component come on top here, at most 0.1 of a point.",
    )
    yield Claim(
        f"uplink saved over {EPOCHS} epochs, in %",
        where="abstract: up to 93.5",
        setting=f"{SETTING}, Llama 3.2 3B; every text {EPOCHS} times, the first time in full",
        figures=(Figure("saved", "93.5"),),
        interval=0.02,
        measure=lambda: [100 - over_epochs("llama-3.2-3b")],
        found="93.5 % is what is saved from the second epoch on. The first, which goes in full, is not counted there.",
    )
    yield Claim(
        "AQ-SGD: uplink and total, in %",
        where="table 1",
        setting=f"{SETTING}, Llama 3.2 3B; changes in 4 bits up, gradients in 8 bits down",
        figures=(Figure("up", "25.0"), Figure("total", "37.5")),
        interval=0.02,
        ranked=True,
        measure=lambda: [share(AQ_SGD, "llama-3.2-3b", up_only=each) for each in (True, False)],
    )
    yield Claim(
        "random top-k of 0.3: uplink, in %",
        where="table 1: 50.5 to 52.5",
        setting=f"{SETTING}; bfloat16 numbers and packed indices",
        figures=tuple(Figure(model, text) for model, text in ((MODELS[0], "50.5"), (MODELS[3], "52.5"))),
        interval=0.02,
        ranked=True,
        measure=lambda: [share(RANDOM, model, up_only=True) for model in (MODELS[0], MODELS[3])],
    )


def codecs(wire: Mapping[str, Any], model: str) -> StepCodecs:
    """Of a client with this ``wire``."""
    half = torch.bfloat16
    return StepCodecs.of(WireConfig.model_validate(wire), int(built_in(model).hidden_size), half, half, 0)


def share(wire: Mapping[str, Any], model: str, *, up_only: bool) -> float:
    """Bytes of a text that was sent before, in % of those without codecs."""
    kinds = ("activations",) if up_only else ("activations", "gradients")
    ours, plain = (sum(codecs(each, model).payload_bytes(kind, 1, TOKENS) for kind in kinds) for each in (wire, {}))
    return 100 * ours / plain


def over_epochs(model: str) -> float:
    """Bytes up of a text over all epochs, in %."""
    sent, plain = codecs(WIRE, model), codecs({}, model)
    first = sent.payload_bytes("activations", 1, TOKENS, [0])  # nobody has it yet
    later = sent.payload_bytes("activations", 1, TOKENS)
    return 100 * (first + (EPOCHS - 1) * later) / (EPOCHS * plain.payload_bytes("activations", 1, TOKENS))
