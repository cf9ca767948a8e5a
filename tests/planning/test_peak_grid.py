"""Predicted peaks are never below those of a real client, over families, shapes, targets, cuts and options.

What is above is gradients of lower blocks, which come into being while what was saved is given up: little where a batch
has more tokens than adapters have ranks.
"""

import random

import pytest
from support.real_client import features, make_base, measure, parts
from transformers import (
    BertConfig,
    DistilBertConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    Qwen3Config,
    SmolLM3Config,
)

from atlas_cli.planning.memory.predict import predict_client
from atlas_cli.planning.memory.step import Step

D, HEADS, LAYERS = 64, 4, 3
_SIZES = {"vocab_size": 50, "hidden_size": D, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
_GEMMA = {
    "head_dim": D // HEADS,
    "query_pre_attn_scalar": D // HEADS,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
MAKE = {
    "gpt2": lambda f, _: GPT2Config(vocab_size=50, n_embd=D, n_inner=f, n_layer=LAYERS, n_head=HEADS, n_positions=64),
    "bert": lambda f, _: BertConfig(**_SIZES, pad_token_id=0, intermediate_size=f),
    "llama": lambda f, shared: LlamaConfig(**_SIZES, intermediate_size=f, num_key_value_heads=shared),
    "qwen3": lambda f, shared: Qwen3Config(**_SIZES, intermediate_size=f, num_key_value_heads=shared, head_dim=32),
    "distilbert": lambda f, _: DistilBertConfig(
        vocab_size=50, pad_token_id=0, dim=D, n_layers=LAYERS, n_heads=HEADS, hidden_dim=f, max_position_embeddings=64
    ),
    "opt": lambda f, _: OPTConfig(**_SIZES, ffn_dim=f, max_position_embeddings=64),
    "gpt_neox": lambda f, _: GPTNeoXConfig(**_SIZES, intermediate_size=f),
    "gemma2": lambda f, shared: Gemma2Config(**_SIZES, **_GEMMA, intermediate_size=f, num_key_value_heads=shared),
    "gemma3": lambda f, shared: Gemma3TextConfig(**_SIZES, **_GEMMA, intermediate_size=f, num_key_value_heads=shared),
    "smollm3": lambda f, shared: SmolLM3Config(
        **_SIZES, pad_token_id=0, intermediate_size=f, num_key_value_heads=shared, no_rope_layers=[1, 0, 1]
    ),
    "falcon": lambda f, _: FalconConfig(**_SIZES, ffn_hidden_size=f),
}
TARGETS = {
    "gpt2": ("auto", ["attn.c_proj"], ["mlp.c_fc"], ["mlp.c_proj"], ["attn.c_attn", "mlp.c_fc"]),
    "bert": ("auto", ["attention.output.dense"], ["intermediate.dense"], ["key"]),
    "llama": ("auto", ["k_proj"], ["o_proj"], ["up_proj"], ["down_proj"]),
    "qwen3": ("auto", ["o_proj"], ["gate_proj", "down_proj"]),
    "distilbert": ("auto", ["out_lin"], ["lin1"], ["lin2"]),
    "opt": ("auto", ["out_proj"], ["fc1"], ["fc2"]),
    "gpt_neox": ("auto", ["attention.dense"], ["dense_h_to_4h"], ["dense_4h_to_h"]),
    **{name: ("auto", ["k_proj"], ["o_proj"], ["up_proj"], ["down_proj"]) for name in ("gemma2", "gemma3", "smollm3")},
    "falcon": ("auto", ["self_attention.dense"], ["dense_h_to_4h"], ["dense_4h_to_h"]),
}
OPTIMIZERS = {
    "adamw": {"name": "adamw"},
    "sgd": {"name": "sgd"},
    "sgd-momentum": {"name": "sgd", "momentum": 0.9},
}


def check(
    name, width, *, shared=4, dtype="float32", checkpointing=False, cut=2, targets="auto", padded=True, batch=4,
    tokens=32, rank=4, fused=False, optimizer="adamw",
):  # fmt: skip
    case = locals().copy()
    base = make_base(MAKE[name](width, shared), dtype, fused=fused)
    training = {"client_optimizer": OPTIMIZERS[optimizer]}
    used, ranks, peak = measure(
        base,
        cut,
        rank,
        batch,
        tokens,
        padded,
        lora={"targets": targets},
        training=training,
        checkpointing=checkpointing,
    )
    step = Step(batch, tokens, padded, dtype, checkpointing, fused, optimizer=optimizer)
    said = predict_client(base.family, base.config, cut, ranks, features(base, targets), step)
    assert parts(said) == parts(used), case
    # where a batch has fewer tokens than twice the largest rank, adapters weigh as much as it: at most 13.9 % above;
    # with checkpointing all gradients are taken to be there when most is alive: at most 6.3 %; with a
    # feed-forward of a quarter of the width, where most is alive in the attention, at most 6.0 %; at most 5 % else
    limit = 1.14 if batch * tokens <= 32 else 1.07 if checkpointing else 1.06 if 4 * width <= D else 1.05
    assert peak <= said.peak <= limit * peak, (said.peak / peak - 1, case)


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKE)
def test_narrow_feed_forwards(name):
    """Where the feed-forward is narrow, the attention or a norm is where most is alive."""
    cases = (
        (D // 4, "bfloat16", 1, False), (D // 2, "float32", 2, True),
        (D, "bfloat16", 3, True), (2 * D, "float32", 1, False),
    )  # fmt: skip
    for width, dtype, cut, padded in cases:
        check(name, width, dtype=dtype, cut=cut, padded=padded, shared=2)
    check(name, D, rank={1: 4})  # the block below has no backward
    check(name, D // 2, cut=3, rank={0: 16, 1: 1, 2: 2}, checkpointing=True)
    check(name, D, targets=TARGETS[name][-1], cut=1, shared=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(9))
def test_random_cases(seed):
    draw = random.Random(seed)
    names = list(MAKE)[:7] if seed < 8 else list(MAKE)[7:]
    for _ in range(16):
        name, cut = draw.choice(names), draw.randint(1, LAYERS)
        batch, tokens = draw.choice(((1, 4), (2, 9), (4, 32), (2, 64)))
        rank = draw.choice((1, 4, 16))
        check(
            name,
            int(D * draw.choice((0.25, 0.5, 1, 2, 4))),
            shared=draw.choice((1, 2, 4)),
            dtype=draw.choice(("float32", "bfloat16")),
            checkpointing=draw.random() < 0.5,
            cut=cut,
            targets=draw.choice(TARGETS[name]),
            padded=draw.random() < 0.5,
            batch=batch,
            tokens=tokens,
            rank=draw.choice((rank, {draw.randrange(cut): rank}, {layer: draw.choice((1, 8)) for layer in range(cut)})),
            fused=name == "gpt2" and draw.random() < 0.5,
            optimizer=draw.choice(list(OPTIMIZERS)),
        )
