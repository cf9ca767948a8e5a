"""HO-SFL: a client's gradient from forward passes and the gradient at the cut."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config

from atlas_cli.config.schema.experiment import LoraConfig, TrainingConfig
from atlas_cli.federation.parties.setting import Setting
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.federation.parties.zeroth_order_client import ZerothOrderClient
from atlas_cli.models.families import family_of
from atlas_cli.models.frozen.load import FrozenBase
from published.claim import Claim, Figure, Paper

PAPER = Paper("HO-SFL", "2603.14773", "https://arxiv.org/abs/2603.14773")
PATH, RANK, PROBES, DRAWS = "h.0.mlp.c_proj", 2, 4, 1000
NUMBERS = RANK * 8  # of B, behind a layer of width 8
SETTING = (
    "a client with a block of width 8, whose output is linear in the B of rank 2 that it trains, smoothing 0.5; "
    f"{DRAWS} estimates with {PROBES} probes of normal numbers each"
)


def claims() -> Iterator[Claim]:
    """The estimator."""
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
