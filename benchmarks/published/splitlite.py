"""SplitLite: changes of activations and gradients as thin products, and what they are compared with."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from golden_inputs import FILLER
from torch import Tensor

from atlas_cli.config.schema.wire import WireConfig
from atlas_cli.models.files.architectures import built_in
from atlas_cli.wire.messages import Activations, Gradients
from atlas_cli.wire.recorded_messages import recorded_messages
from atlas_cli.wire.step_codecs import StepCodecs
from published.claim import Claim, Figure, Paper
from published.trained import inputs, run

PAPER = Paper("SplitLite", "2608.23018", "https://arxiv.org/abs/2608.23018", secondary=True)
MODELS = ("qwen2.5-1.5b", "qwen2.5-3b", "gemma-3-1b", "llama-3.2-3b")
RANK, TOKENS, EPOCHS = 16, 128, 10
SETTING = (
    f"one text of {TOKENS} tokens at the widths of the models, against 16 bits a number; bytes of the tensors sent"
)
WIRE = {
    "activations": {"codec": "delta", "options": {"codec": "low-rank", "options": {"rank": 2 * RANK, "bits": 4}}},
    "gradients": {"codec": "low-rank", "options": {"rank": 4 * RANK, "bits": 8}},
}
AQ_SGD = {
    "activations": {"codec": "delta", "options": {"codec": "int4", "options": {"block": None}}},
    "gradients": {"codec": "int8"},
}
RANDOM = {"activations": {"codec": "random-top-k", "options": {"share": 0.3, "numbers": "bfloat16"}}}
LOW_RANK = (
    ("an adapter on the last layer below the cut alone", ["mlp.c_proj"], 1, ""),
    (
        *("adapters on attention in two blocks", ["attn.c_attn"], 2),
        "What adapters change passes softmax, norms and GELU, and that has any rank. The tails are small all the "
        "same: a share of 0.11 of the norm is 1.2 % of its square, and 0.05 is 0.25 %.",
    ),
)
WORDS, TEXTS = 24, 4
RECORDED = (
    f"GPT-2 of 4 blocks of width 32, random weights; {TEXTS} clients with a text of {WORDS} words each, language "
    "modelling, 8 rounds of a step, AdamW, learning rate 0.001; of recorded messages the share of the norm in singular "
    "values beyond that rank, the largest of all texts and rounds; adapters of rank 2"
)


def claims() -> Iterator[Claim]:
    """Table 1, and the ranks that it is built on."""
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
    for what, targets, cut, found in LOW_RANK:
        yield Claim(
            f"activations differ by rank r from the pretrained, and by 2 r from a round before: {what}",
            where="its analysis",
            setting=f"{RECORDED}, on {targets[0]}, cut after block {cut}",
            figures=(Figure("beyond r", "0", within=1e-4), Figure("beyond 2 r", "0", within=1e-4)),
            measure=lambda targets=targets, cut=cut: beyond(tuple(targets), cut)[:2],
            found=found,
        )
    yield Claim(
        "gradients at the cut have rank 4 r",
        where="its analysis",
        setting=f"{RECORDED}, on attn.c_attn, cut after block 2",
        figures=(Figure("beyond 4 r", "0", within=1e-4),),
        measure=lambda: beyond(("attn.c_attn",), 2)[2:],
        found="Nothing of this model keeps its gradients to that rank: each token's comes through the frozen blocks "
        "of the server, into which r does not enter. What a model with pretrained weights has was not measured.",
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


@cache
def beyond(targets: tuple[str, ...], cut: int) -> list[float]:
    """Shares of norms beyond r, 2 r and 4 r, of recorded messages."""
    rounds, rank = 8, 2
    with inputs() as folder:
        draw = random.Random(0)
        lines = [" ".join(draw.choices(FILLER, k=WORDS)) for _ in range(2 * TEXTS)]
        for name, part in (("train", lines[:TEXTS]), ("test", lines[TEXTS:])):
            (folder / "data" / f"long-{name}.txt").write_text("\n".join([*part, ""]), encoding="utf-8", newline="\n")
        done = run(
            {"a": {"rank": rank, "count": TEXTS}},
            group={"task": "causal-lm", "data": {"files": "data/long-train.txt", "test_files": "data/long-test.txt"}},
            model={"name": "./models/gpt2", "split_layer": cut},
            lora={"targets": list(targets)},
            partition={"local_test": 0, "min_examples": 1},
            training={"rounds": rounds, "local_steps": 1, "batch_size": 1, "max_length": WORDS},
            aggregation={"method": "zero-pad"},
            audit={"record": {"rounds": list(range(1, rounds + 1))}},
        )
        sent: dict[str, list[Activations]] = {}
        gradients = []
        for each in recorded_messages(done):
            message = each.message()
            if isinstance(message, Activations):
                sent.setdefault(each.client, []).append(message)
            elif isinstance(message, Gradients):
                gradients.append(message.gradients[0])
    texts = [[message.activations[0] for message in own] for own in sent.values()]
    return [
        max(tail(now - own[0], rank) for own in texts for now in own[1:]),
        max(tail(now - before, 2 * rank) for own in texts for before, now in pairwise(own)),
        max(tail(gradient, 4 * rank) for gradient in gradients),
    ]


def tail(matrix: Tensor, rank: int) -> float:
    """The share of a matrix's Frobenius norm in its singular values beyond this rank."""
    values = torch.linalg.svdvals(matrix.double())
    return float(values[rank:].norm() / values.norm())
