"""HO-SFL: a client's gradient from forward passes and the gradient at the cut."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from golden_inputs import FILLER, TONE
from paired import paired
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config

from atlas_cli.config.schema.experiment import LoraConfig, TrainingConfig
from atlas_cli.federation.parties.setting import Setting
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.federation.parties.zeroth_order_client import ZerothOrderClient
from atlas_cli.models.families import family_of
from atlas_cli.models.frozen.load import FrozenBase
from published.claim import Claim, Figure, Paper
from published.trained import inputs, run

PAPER = Paper("HO-SFL", "2603.14773", "https://arxiv.org/abs/2603.14773")
PATH, RANK, PROBES, DRAWS = "h.0.mlp.c_proj", 2, 4, 1000
NUMBERS = RANK * 8  # of B, behind a layer of width 8
SETTING = (
    "a client with a block of width 8, whose output is linear in the B of rank 2 that it trains, smoothing 0.5; "
    f"{DRAWS} estimates with {PROBES} probes of normal numbers each"
)
SEEDS = 4
WAYS = {"SplitLoRA": ("backprop", 2), "HO-SFL": ("zeroth-order", 2), "zeroth order": ("zeroth-order", 4)}
TRAINED = (
    "GPT-2 of 4 blocks of width 32, random weights, cut in the middle, or after all blocks for zeroth order alone; 800 "
    "texts of ten words, of which three have a tone, labelled by that of most, and 500 to test on; four clients and a "
    f"server of rank 4, 10 rounds of 10 steps of 16 texts, 2 probes, AdamW, learning rate 0.01; {SEEDS} seeds of "
    "batches and weights, differences in points of accuracy within a seed"
)


def claims() -> Iterator[Claim]:
    """The estimator, and what is learned by it."""
    yield Claim(
        "squared error of an estimate, by the gradient's square: (d + 1) / P for d numbers and P probes",
        where="its estimator, of a linear client half",
        setting=SETTING,
        figures=(Figure("variance", f"{(NUMBERS + 1) / PROBES:.2f}"),),
        interval=0.10,
        measure=lambda: [variance_and_bias()[0]],
    )
    yield Claim(
        "the estimate is unbiased: squared error of the mean of all, by what their variance leaves of it",
        where="its estimator",
        setting=f"{SETTING}; 1 is what a mean of so many unbiased estimates is expected to leave",
        figures=(Figure("share", "1.0"),),
        interval=0.75,
        measure=lambda: [variance_and_bias()[1]],
    )
    for name, where, figure, against, found in (
        (
            *("HO-SFL within a point of SplitLoRA", "OPT-125M 87.6 and 87.5, Gemma 270M 90.8 and 90.3"),
            *(
                Figure("HO-SFL - SplitLoRA", "+0.1", at_most=1.0),
                "SplitLoRA",
                "Gradients learn the toy all but wholly.",
            ),
        ),
        (
            *("HO-SFL above zeroth order alone", "OPT-125M 87.6 against 52.8"),
            *(Figure("HO-SFL - zeroth order", "+34.8"), "zeroth order", ""),
        ),
    ):
        yield Claim(
            name,
            where=f"SST-2: {where}",
            setting=TRAINED,
            changed="A toy for pretrained models and SST-2, whose weights are drawn: it ranks estimates of a gradient, "
            "and says nothing of what a model learns. atlas has no zeroth order of a whole model; a client that "
            "holds all blocks and learns by forward passes is one but for the head, which stays as it was drawn, and "
            "through which the gradient at the cut is exact.",
            figures=(figure,),
            found=found,
            slow=True,
            measure=lambda against=against: [paired(accuracies("HO-SFL"), accuracies(against))],
        )


@cache
def accuracies(way: str) -> list[float]:
    """In %, by seed."""
    (client, cut), alone = WAYS[way], way == "zeroth order"
    with inputs() as folder:
        write_majorities(folder / "data")
        runs = [
            run(
                {"a": {"rank": 4, "count": 4, "learns": client}},
                group={
                    "task": "sequence-classification",
                    "data": {"files": "data/majority.csv", "test_files": "data/majority-test.csv"},
                },
                seed=seed,
                model={"name": "./models/gpt2", "split_layer": cut},
                server={"rank": 0 if alone else 4},
                partition={"local_test": 0},
                training={
                    **{"rounds": 10, "local_steps": 10, "batch_size": 16, "max_length": 16},
                    "zeroth_order": {"probes": 2},
                    "client_optimizer": {"lr": 0.01},
                    "server_optimizer": {"name": "sgd", "lr": 1e-12} if alone else {"lr": 0.01},
                },
                evaluation={"every": 1000, "batch_size": 128},
            )
            for seed in range(SEEDS)
        ]
        return [100 * done.read_lines("metrics.jsonl")[-1]["test"]["accuracy"] for done in runs]


def write_majorities(folder: Path) -> None:
    """Texts of ten words, three of which have a tone, at random places; the label is that of two or more."""
    draw = random.Random(0)
    for name, count in (("majority", 800), ("majority-test", 500)):
        rows = ["text,label"]
        for _ in range(count):
            tones = [draw.choice(("pos", "neg")) for _ in range(3)]
            said = [draw.choice(TONE[tone]) for tone in tones] + draw.choices(FILLER, k=7)
            draw.shuffle(said)
            rows.append(f"{' '.join(said)},{max(set(tones), key=tones.count)}")
        (folder / f"{name}.csv").write_text("\n".join([*rows, ""]), encoding="utf-8", newline="\n")


@cache
def variance_and_bias() -> tuple[float, float]:
    """Mean squared error of an estimate by the gradient's square, and that of the mean by its expectation."""
    torch.manual_seed(0)
    base = small_base()
    ids = torch.randint(0, 50, (2, 4))
    batch, at_cut = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, torch.randn(2, 4, 8)
    exact = gradient(client(base, SplitClient), batch, at_cut, 0)
    forward = client(base, ZerothOrderClient)
    errors = torch.stack([gradient(forward, batch, at_cut, step) - exact for step in range(DRAWS)])
    squared = float(exact.square().sum())
    variance = float(errors.square().sum((1, 2)).mean()) / squared
    return variance, float(errors.mean(0).square().sum()) / squared * DRAWS / variance


def small_base() -> FrozenBase:
    """Random weights."""
    config = GPT2Config(vocab_size=50, n_embd=8, n_layer=2, n_head=2, n_positions=16)
    whole = AutoModelForCausalLM.from_config(config).requires_grad_(False).eval()
    return FrozenBase(whole.base_model, whole.lm_head, family_of("gpt2"), "small", "random", "")


def client(base: FrozenBase, kind: type[SplitClient]) -> SplitClient:
    """One that trains B alone."""
    training = TrainingConfig.model_validate({"zeroth_order": {"probes": PROBES, "smoothing": 0.5}})
    made = kind("a", base, 1, {PATH: RANK}, Setting(LoraConfig.model_validate({"targets": ["mlp.c_proj"]}), training))
    made.train_only(("B",))
    return made


def gradient(of: SplitClient, batch: dict[str, Tensor], at_cut: Tensor, step: int) -> Tensor:
    """Of B, for a gradient at the cut."""
    of.forward(batch, 1, step, None)
    of.backward(at_cut)
    (B,) = of.trained()
    assert B.grad is not None
    found, B.grad = B.grad.clone(), None
    return found
