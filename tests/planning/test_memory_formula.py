"""Predicted bytes equal the measured ones: families with a formula, over shapes, ranks, cuts, padding and dtypes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.real_client import features, make_base, measure, parts
from transformers import BertConfig, GPT2Config, LlamaConfig, RobertaConfig

from atlas_cli.planning.memory.predict import predict_client
from atlas_cli.planning.memory.saved_formula import blocks_saved
from atlas_cli.planning.memory.step import Step

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
    assert said.how == "formula"
    assert parts(said) == parts(used)
    assert said.peak == sum(parts(said).values()) + said.transient
    assert said.peak >= peak
    return said, peak


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["gpt2", "bert", "llama"])
def test_every_part_is_exact(name, dtype):
    base = make_base(MAKE[name](), dtype)
    for cut in (1, 2, 3):
        for rank in (1, 7):
            for padded in (True, False):
                check(base, dtype, cut, rank, 2, 9, padded)


@settings(max_examples=25, deadline=None, derandomize=True)
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


@pytest.mark.parametrize("name", ["gpt2", "bert", "llama"])
def test_peak_of_the_tensors(name):
    for dtype in ("float32", "bfloat16"):
        base = make_base(MAKE[name](64, 256), dtype)
        for cut, padded in ((1, True), (3, True), (3, False)):
            said, peak = check(base, dtype, cut, 4, 4, 32, padded)
            assert said.peak <= 1.05 * peak


@pytest.mark.parametrize("name", ["gpt2", "bert", "llama"])
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


def test_where_no_formula_holds():
    def formula(config, ranks, layers=range(2)):
        family = make_base(config).family
        shape = {"dtype": "float32", "padded": True, "fused_gelu": False, "gradient_below": False}
        return blocks_saved(family, config, layers, ranks, 2, 9, **shape)

    both = {f"encoder.layer.{i}.attention.self.{n}": 2 for i in range(2) for n in ("query", "value")}
    assert formula(bert(), both)
    assert formula(bert(), dict(list(both.items())[:3])) is None  # one target of a layer without the other
    assert formula(bert(), both | {"encoder.layer.0.output.dense": 2}) is None
    assert formula(gpt2(activation_function="relu"), {"h.0.attn.c_attn": 2}) is None
    assert formula(gpt2(activation_function="gelu"), {"h.0.attn.c_attn": 2})
    assert formula(gpt2(), {"h.1.attn.c_attn": 2})[0] == 0  # nothing below the lowest adapter is saved


def test_unknown_optimizer_is_an_error():
    base = make_base(bert())
    with pytest.raises(KeyError):
        predict_client(base.family, base.config, 2, {}, features(base), Step(2, 9, optimizer="lion"))


def test_prediction_takes_no_random_numbers():
    base = make_base(bert())
    before = torch.get_rng_state()
    predict_client(base.family, base.config, 2, {}, features(base), Step(2, 9, dropout=0.5))
    assert torch.equal(torch.get_rng_state(), before)
