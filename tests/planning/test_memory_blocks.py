"""Predicted bytes equal the measured ones, those by hand, and those of a trace of all blocks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.real_client import features, make_base, measure, parts
from support.slow import slow
from support.tiny_models import CONFIGS
from transformers import BertConfig, GPT2Config, LlamaConfig, RobertaConfig

from atlas_cli.models.families import family_of
from atlas_cli.planning.memory import few_blocks
from atlas_cli.planning.memory.few_blocks import step_of
from atlas_cli.planning.memory.predict import predict_client
from atlas_cli.planning.memory.saved_trace import trace
from atlas_cli.planning.memory.step import Step
from atlas_cli.tasks import build as build_task

LAYERS = 3


def gpt2(d=32, f=128, heads=4, shared=4, **more):
    return GPT2Config(vocab_size=50, n_embd=d, n_inner=f, n_layer=LAYERS, n_head=heads, n_positions=64, **more)


def bert(d=32, f=128, heads=4, shared=4, kind=BertConfig):
    sizes = {"hidden_size": d, "num_hidden_layers": LAYERS, "num_attention_heads": heads, "intermediate_size": f}
    return kind(vocab_size=50, pad_token_id=0, **sizes)


def roberta(*sizes):
    return bert(*sizes, kind=RobertaConfig)


def llama(d=32, f=96, heads=4, shared=2):
    sizes = {"hidden_size": d, "num_hidden_layers": LAYERS, "num_attention_heads": heads, "intermediate_size": f}
    return LlamaConfig(vocab_size=50, num_key_value_heads=shared, **sizes)


MAKE = {"gpt2": gpt2, "bert": bert, "llama": llama, "roberta": roberta}


def check(base, dtype, cut, rank, batch, tokens, padded, **options):
    used, ranks, peak = measure(base, cut, rank, batch, tokens, padded, **options)
    step = Step(batch, tokens, padded, dtype, **options)
    said = predict_client(base.family, base.config, cut, ranks, features(base), step)
    assert parts(said) == parts(used)
    assert said.peak == sum(parts(said).values()) + said.transient
    assert said.peak >= peak
    return said, peak


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("gpt2", "float32"),
        ("llama", "bfloat16"),
        *slow(("gpt2", "bfloat16"), ("llama", "float32")),
        *slow(("bert", "float32"), ("bert", "bfloat16")),
    ],
)
def test_every_part_is_exact(name, dtype):
    base = make_base(MAKE[name](), dtype)
    for cut in (1, 2, 3):
        for rank, padded in ((1, True), (7, False)):
            check(base, dtype, cut, rank, 2, 9, padded)


@pytest.mark.slow
@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.data())
def test_random_shapes_are_exact(data):
    draw = lambda *values: data.draw(st.sampled_from(values))  # noqa: E731
    name, dtype, heads = draw(*MAKE), draw("float32", "bfloat16"), draw(1, 2, 4)
    shared = data.draw(st.sampled_from([n for n in (1, 2, 4) if heads % n == 0]))
    d = 2 * heads * data.draw(st.integers(2, 8))
    base = make_base(MAKE[name](d, data.draw(st.integers(d, 4 * d)), heads, shared), dtype)
    cut = data.draw(st.integers(1, LAYERS))
    layers = data.draw(st.sets(st.integers(0, cut - 1), min_size=1))
    rank = {layer: data.draw(st.integers(1, 4)) for layer in layers}
    check(base, dtype, cut, rank, data.draw(st.integers(1, 4)), data.draw(st.integers(2, 30)), draw(True, False))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "bert", "llama"])
def test_peak_of_the_tensors(name):
    for dtype in ("float32", "bfloat16"):
        base = make_base(MAKE[name](64, 256), dtype)
        for cut, padded in ((1, True), (3, True), (3, False)):
            said, peak = check(base, dtype, cut, 4, 4, 32, padded)
            assert said.peak <= 1.05 * peak


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "bert", "gpt2"])
def test_checkpointing(name):
    base = make_base(MAKE[name](64, 256))
    for cut, padded in ((1, False), (1, True), (3, False), (3, True)):
        used, ranks, peak = measure(base, cut, 4, 4, 32, padded, checkpointing=True)
        model = base.family, base.config, cut, ranks, features(base)
        said = predict_client(*model, Step(4, 32, padded, checkpointing=True))
        plain = predict_client(*model, Step(4, 32, padded))
        assert parts(said) == parts(used)
        assert peak <= said.peak <= 1.05 * peak
        assert said.peak < plain.peak or cut == 1
        assert said.saved_activations < 0.1 * plain.saved_activations


def test_fused_gelu():
    plain, fused = make_base(gpt2(64, 256)), make_base(gpt2(64, 256), fused=True)
    used, ranks, peak = measure(fused, 3, 4, 4, 32, True)
    said = predict_client(fused.family, fused.config, 3, ranks, features(fused), Step(4, 32, fused_gelu=True))
    assert parts(said) == parts(used)
    assert peak <= said.peak <= 1.05 * peak
    unfused, _ = check(plain, "float32", 3, 4, 4, 32, True)
    # four tensors of N f numbers become one, in each of three blocks
    assert unfused.saved_activations - said.saved_activations == 3 * 3 * 4 * (4 * 32) * 256


@pytest.mark.parametrize(
    ("optimizer", "moments"), [({"name": "sgd"}, 0), ({"name": "sgd", "momentum": 0.9}, 1), ({"name": "adamw"}, 2)]
)
def test_optimizers(optimizer, moments):
    base = make_base(bert())
    used, ranks, _ = measure(base, 2, 4, 2, 9, True, training={"client_optimizer": optimizer})
    name = "sgd-momentum" if moments == 1 else optimizer["name"]
    said = predict_client(base.family, base.config, 2, ranks, features(base), Step(2, 9, optimizer=name))
    assert parts(said) == parts(used)
    assert said.optimizer // said.adapters == moments


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saved_bytes_of_gpt2_by_hand(dtype, padded, fused):
    """From what its blocks compute: an oracle that shares nothing with a trace."""
    config, ranks = gpt2(64, 256), {"h.1.attn.c_attn": 7, "h.2.attn.c_attn": 2}
    said = predict_client(
        family_of("gpt2"),
        config,
        3,
        ranks,
        dict.fromkeys(ranks, (64, 192)),
        Step(4, 32, padded, dtype, fused_gelu=fused),
    )
    e, n = {"float32": 4, "bfloat16": 2}[dtype], 4 * 32
    norm = e * n * (64 + 2)  # its input, mean and reciprocal deviation
    # queries, keys, values and output; log-sum-exp of each head in float32; the mask of a padded batch as it is added
    attention = e * n * 4 * 64 + 4 * n * 4 + padded * e * 4 * 32**2
    gelu = (1 if fused else 4) * e * n * 256
    # what A gives, in float32; the lowest keeps the input of A as well, whose norm saves nothing
    lowest = 4 * n * 7 + e * n * 64 + attention + norm + gelu
    above = 4 * n * 2 + norm + attention + norm + gelu
    assert said.saved_activations == lowest + above


EVEN = {n: (3,) for n in range(6)}
UNEVEN = {0: (1, 5), 1: (4, 2), 2: (4, 2), 3: (2, 1), 4: (1, 1), 5: (3,)}
SOME = {1: (2,), 2: (2, 6), 4: (1,), 5: (1, 2, 1)}
CASES = [
    (EVEN, {"checkpointing": True}, range(6), False),
    (UNEVEN, {"autocast": True}, range(6), False),
    (SOME, {"dropout": 0.1}, range(6), True),
    (SOME, {"dtype": "bfloat16"}, range(2, 6), False),
]


@pytest.mark.parametrize("name", slow("qwen2", "distilbert", "gpt_neox", "gemma3_text", "modernbert", "deberta-v2"))
def test_few_blocks_save_what_all_save(name):
    """Ranks, targets and types of attention differ from block to block; on clients, servers and undivided models."""
    config, family = CONFIGS[name](), family_of(name)
    config.num_hidden_layers = 6
    if getattr(config, "layer_types", None):
        config.layer_types = ["full_attention", "sliding_attention"] * 3
    names = [name for stage in family.stages for name in stage]
    task = build_task("sequence-classification", ["a", "b"])
    for by, options, layers, whole in CASES:
        placed = {
            f"{family.blocks}.{n}.{name}": rank
            for n in layers
            for name, rank in zip(names, by.get(n, ()), strict=False)
        }
        given = Step(3, 11, **options)
        head = task if whole or layers.start else None
        few = step_of(family, config, layers, placed, given, whole=whole, task=head)
        every = trace(family, config, layers, placed, given, whole=whole, task=head)
        assert few.saved == every.saved, (by, options, layers, whole)
        assert few.peak - few.gradients >= every.peak - every.gradients, (by, options, layers, whole)


def test_optimizers_share_their_traces():
    model = (family_of("bert"), bert(), range(2), {"encoder.layer.1.attention.self.query": 3})
    few_blocks.step_of(*model, Step(2, 5, optimizer="sgd"))
    before = few_blocks._traced.cache_info().misses
    few_blocks.step_of(*model, Step(2, 5, optimizer="adamw"))
    assert few_blocks._traced.cache_info().misses == before


def test_unknown_optimizer_is_an_error():
    base = make_base(bert())
    with pytest.raises(KeyError):
        predict_client(base.family, base.config, 2, {}, features(base), Step(2, 9, optimizer="lion"))


def test_prediction_takes_no_random_numbers():
    base = make_base(bert())
    before = torch.get_rng_state()
    predict_client(base.family, base.config, 2, {}, features(base), Step(2, 9, dropout=0.5))
    assert torch.equal(torch.get_rng_state(), before)
