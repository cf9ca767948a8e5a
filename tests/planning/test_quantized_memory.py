"""Memory with quantised blocks and embeddings by the row, predicted without weights and without bitsandbytes."""

import sys
from itertools import product

import pytest
from support.real_client import features, make_base, measure, parts
from support.tiny_models import CONFIGS

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.models.frozen.weight_format import QUANTIZATIONS, quantized_bytes
from atlas_cli.planning.cuts.table import Setting, Shapes, config_of
from atlas_cli.planning.memory.predict import predict_client
from atlas_cli.planning.memory.step import Step
from atlas_cli.planning.memory_assumptions import notes_on
from atlas_cli.planning.memory_of_plan import predict
from atlas_cli.planning.plan import make_plan

MIB, GIB = 2**20, 2**30
SMALL = {"quantization": "nf4", "embedding": "rows", "dtype": "bfloat16"}


def client(model, cut, **setting):
    setting = Setting(**setting)
    return Shapes(config_of(model), setting).client(cut, setting)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", QUANTIZATIONS[1:])
def test_frozen_weights_by_hand(quantization):
    d, f, norm = 768, 3072, 2 * 768
    linear = [(3 * d, d), (d, d), (f, d), (d, f)]
    block = 4 * (2 * norm + sum(out for out, _ in linear)) + sum(quantized_bytes(*w, quantization) for w in linear)
    positions, row = 4 * 1024 * d, 4 * d + 8  # a row has its number with it
    said = client("gpt2", 2, quantization=quantization, embedding="rows", rows=1000, batch=2, tokens=16)
    assert said.frozen_weights == positions + 2 * block + 1000 * row
    assert said.saved_activations == client("gpt2", 2, batch=2, tokens=16).saved_activations  # weights are not saved


def test_no_more_rows_than_tokens():
    whole, rows = client("gpt2", 1), client("gpt2", 1, embedding="rows", rows=10**6)
    assert rows.peak == whole.peak + 8 * 50257
    assert client("gpt2", 1, rows=10) == whole  # rows count where embeddings are held by the row


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gpt2", "bert-base-uncased", "llama-3-8b", "distilbert-base-uncased"])
def test_every_option_saves(model):
    for dtype in ("float32", "bfloat16"):
        held = ("none", "int8", "nf4", "nf4-double")
        peaks = [client(model, 2, dtype=dtype, quantization=each, tokens=32).peak for each in held]
        assert peaks == sorted(peaks, reverse=True)
        assert client(model, 2, dtype=dtype, quantization="nf4", embedding="rows", tokens=32).peak < peaks[2]


MODELS = ("gpt2", "llama", "bert")
# cut, options, batch and tokens, and by how much the peak may be above: as for weights that are not quantised
STEPS = ((3, {}, (4, 32), 1.05), (3, {"checkpointing": True}, (4, 32), 1.07), (2, {}, (1, 4), 1.14))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "case"), list(enumerate(product(MODELS, QUANTIZATIONS[1:]))))
def test_what_a_real_client_holds(number, case):
    """Every step of each model in each format, in either dtype in turn."""
    pytest.importorskip("bitsandbytes")
    model, quantization = case
    dtypes = ("float32", "bfloat16")
    bases = {dtype: make_base(CONFIGS[model](), dtype, quantization=quantization) for dtype in dtypes}
    for turn, (cut, options, (batch, tokens), limit) in enumerate(STEPS, number):
        base, dtype = bases[dtypes[turn % 2]], dtypes[turn % 2]
        used, ranks, peak = measure(base, cut, 4, batch, tokens, True, **options)
        step = Step(batch, tokens, dtype=dtype, quantization=quantization, **options)
        said = predict_client(base.family, base.config, cut, ranks, features(base), step)
        assert parts(said) == parts(used)
        assert peak <= said.peak <= limit * peak, (cut, options, said.peak / peak)


@pytest.mark.slow
def test_planning_does_not_need_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert client("gpt2", 1, quantization="nf4", batch=3, tokens=17).transient > 4 * 768 * 3072


@pytest.mark.slow
def test_a_client_of_llama_3_8b():
    """In float32 five layers fit 8 GiB, of 32."""
    assert client("llama-3-8b", 5).peak < 8 * GIB < client("llama-3-8b", 6).peak
    assert client("llama-3-8b", 32, checkpointing=True, **SMALL).peak < 4.5 * GIB
    assert client("llama-3-8b", 12, checkpointing=True, **SMALL).peak < 2 * GIB


@pytest.mark.slow
def test_a_client_of_gpt2():
    today = client("gpt2", 6).peak
    assert today == pytest.approx(528 * MIB, rel=0.01)
    assert client("gpt2", 6, **SMALL).peak < 0.31 * today
    in_float32 = {**SMALL, "dtype": "float32"}
    assert client("gpt2", 6, **in_float32).peak < 0.56 * today  # of which activations, as large as before, are 0.36
    assert client("gpt2", 6, **in_float32, checkpointing=True).peak < 0.3 * today


@pytest.mark.slow
def test_a_client_of_gemma_3_270m():
    step = {"batch": 4, "tokens": 128}
    today = client("gemma-3-270m", 9, **step).peak
    assert client("gemma-3-270m", 9, **step, quantization="nf4", embedding="rows").peak < 0.29 * today
    assert client("gemma-3-270m", 9, **step, **SMALL).peak < 0.2 * today


@pytest.mark.slow
def test_the_server_and_the_choice_of_a_cut_know_how_weights_are_held():
    config = {
        "name": "auto",
        "model": {"name": "gpt2", "init": "random", "quantization": "int8"},
        "task_groups": {"g": {"task": "sequence-classification", "classes": ["a", "b"], "data": {"files": "no.csv"}}},
        "devices": {"phone": {"memory": "200 MiB"}},
        "clients": {
            "same": {"task_group": "g", "device": "phone", "split_layer": "auto"},
            "plain": {"task_group": "g", "split_layer": 1, "quantization": "none"},
            "small": {"task_group": "g", "device": "phone", "split_layer": "auto", "quantization": "nf4"},
        },
        "server": {"rank": 1},
        "training": {"batch_size": 1, "max_length": 32},
    }
    plan = make_plan(ExperimentConfig.model_validate(config))
    cuts = {each.name: each.cut for each in plan.clients}
    assert 1 < cuts["same"] < cuts["small"]
    said = predict(plan, {"g": ["a", "b"]})
    held = {name: memory.frozen_weights for name, memory in said.clients.items()}
    table, block = 4 * 768 * (50257 + 1024), 4 * 12 * 768**2
    assert held["plain"] == pytest.approx(table + block, rel=0.01)
    assert held["same"] == pytest.approx(table + cuts["same"] * block / 4, rel=0.01)
    assert said.server.frozen_weights == pytest.approx(11 * block / 4, rel=0.01)
    notes = notes_on(plan)
    assert any(note.startswith("linear layers of the blocks in nf4") and note.endswith(": small") for note in notes)
    assert any("server's blocks in int8" in note for note in notes)
