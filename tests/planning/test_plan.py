"""The plan's figures are those of real modules, and what the model cannot take is refused before weights are loaded."""

import dataclasses
import time

import pytest
import torch
from support.slow import slow
from support.tiny_models import FAMILIES

from atlas_cli.config.schema.experiment import ExperimentConfig, ModelConfig
from atlas_cli.errors import ConfigError
from atlas_cli.models.adapters.lora import build_adapters
from atlas_cli.models.block_paths import by_layer
from atlas_cli.models.frozen import load as load_module
from atlas_cli.models.frozen.load import load_base
from atlas_cli.models.frozen.weight_format import WeightFormat
from atlas_cli.models.halves.split import client_half, run_half, server_half
from atlas_cli.planning.plan import make_plan


def config_of(name, *, ranks=(4,), task="sequence-classification", metric=None, model=None, **sections):
    groups = {"g": {"task": task, "metric": metric, "data": {"files": "not-read.jsonl"}}}
    clients = {f"c{i}": {"task_group": "g", **({"rank": r} if r else {})} for i, r in enumerate(ranks)}
    training = {"max_length": 16, **sections.pop("training", {})}
    return ExperimentConfig.model_validate(
        {
            "name": "test",
            "model": {"name": name, "split_layer": 2, **(model or {})},
            "task_groups": groups,
            "clients": clients,
            "training": training,
            **sections,
        }
    )


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(autouse=True)
def no_weights_are_loaded(monkeypatch):
    """A plan never loads weights; ``monkeypatch.undo()`` allows it for what the plan is compared with."""

    def fail(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(load_module, "_from_source", fail)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cut", [3, *slow(1, 4)])
@pytest.mark.parametrize("family", FAMILIES)
def test_figures_are_those_of_the_real_modules(family, cut, dtype, model_folder, monkeypatch):
    model = {"split_layer": cut, "dtype": dtype}
    plan = make_plan(config_of(model_folder(family), model=model))
    monkeypatch.undo()
    base = load_base(ModelConfig.model_validate({"name": model_folder(family), **model}))
    lower, upper = client_half(base.model, base.family, cut), server_half(base.model, base.family, cut)
    assert plan.parameters == {
        "model": count(base.model),
        "client half": count(lower),
        "server half": count(upper),
    }
    of_both = {id(p) for p in lower.parameters()} & {id(p) for p in upper.parameters()}
    shared = sum(p.numel() for p in upper.parameters() if id(p) in of_both)
    assert plan.parameters["client half"] + plan.parameters["server half"] == plan.parameters["model"] + shared
    assert (plan.cut, plan.n_layers, plan.hidden_size, plan.init) == (cut, 4, 32, "pretrained")
    needed = lower.state_dict()
    assert list(plan.setup_tensors[cut, WeightFormat(dtype)]) == list(needed)
    for name, tensor in plan.setup_tensors[cut, WeightFormat(dtype)].items():
        assert (tensor.device.type, tensor.shape, tensor.dtype) == ("meta", needed[name].shape, needed[name].dtype)
    blocks = {f"{base.family.blocks}.{layer}." for layer in range(cut, 4)}
    assert not any(name.startswith(block) for name in plan.setup_tensors[cut, WeightFormat(dtype)] for block in blocks)
    assert base.family.final_norm is None or not any(
        n.startswith(base.family.final_norm) for n in plan.setup_tensors[cut, WeightFormat(dtype)]
    )


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # as published, less what has no part here: poolers of BERT and RoBERTa, LLaMA's untied output embedding
        ("gpt2", 124_439_808),
        ("gpt2-xl", 1_557_611_200),
        ("bert-base-uncased", 109_482_240 - 590_592),
        ("roberta-base", 124_645_632 - 590_592),
        ("distilbert-base-uncased", 66_362_880),
        ("llama-7b", 6_738_415_616 - 32_000 * 4096),
        ("llama-3-8b", 8_030_261_248 - 128_256 * 4096),
    ],
)
def test_published_numbers_of_parameters(name, parameters):
    started = time.perf_counter()
    plan = make_plan(config_of(name, model={"init": "random", "split_layer": None}))
    assert plan.parameters["model"] == parameters
    assert plan.init == "random (as configured)"
    assert plan.cut == plan.n_layers // 2
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("family", ["gpt2", "llama", "distilbert"])
def test_adapter_parameters_are_those_of_real_adapters(family, model_folder, monkeypatch):
    plan = make_plan(config_of(model_folder(family), ranks=({0: 3, 1: 5}, 7), server={"rank": 2}))
    monkeypatch.undo()
    base = load_base(ModelConfig(name=model_folder(family)))
    for ranks in (*(c.ranks for c in plan.clients), plan.group_ranks("g"), plan.upper_ranks):
        adapters = build_adapters(base.model, ranks, alpha=1.0)
        assert plan.adapter_parameters(ranks) == sum(p.numel() for p in adapters.parameters()) > 0
    assert set(by_layer(plan.upper_ranks, plan.family)) == {2, 3}


def test_clients_groups_and_their_ranks(model_folder):
    config = config_of(
        model_folder("llama"), ranks=({0: 2, 1: 9}, {1: 4}, None), lora={"rank": 3, "targets": ["q_proj"]}
    )
    plan = make_plan(config)
    q = "layers.{}.self_attn.q_proj"
    assert [(c.name, c.task_group, dict(c.ranks), c.key) for c in plan.clients] == [
        ("c0", "g", {q.format(0): 2, q.format(1): 9}, "clients.c0"),
        ("c1", "g", {q.format(1): 4}, "clients.c1"),
        ("c2", "g", {q.format(0): 3, q.format(1): 3}, "clients.c2"),
    ]
    assert plan.members("g") == list(plan.clients) and plan.members("other") == []
    assert list(plan.group_ranks("g").items()) == [(q.format(0), 3), (q.format(1), 9)]
    assert plan.upper_ranks == {}
    assert plan.features == {q.format(layer): (32, 32) for layer in range(4)}


def test_a_group_rank_where_the_first_client_has_a_gap(model_folder):
    """Layers come in the order of the model, not in that of the clients."""
    plan = make_plan(config_of(model_folder("gpt2"), ranks=({1: 4}, {0: 2})))
    assert list(plan.group_ranks("g").items()) == [("h.0.attn.c_attn", 2), ("h.1.attn.c_attn", 4)]


def test_templates_are_expanded(model_folder):
    config = config_of(model_folder("gpt2"))
    many = config.model_copy(update={"clients": {"p": config.clients["c0"].model_copy(update={"count": 3})}})
    assert [(c.name, c.key) for c in make_plan(many).clients] == [(f"p-{i}", "clients.p") for i in (1, 2, 3)]


def test_upper_ranks(model_folder):
    plan = make_plan(config_of(model_folder("gpt2"), server={"rank": 5}, lora={"targets": ["c_attn", "mlp.c_fc"]}))
    assert list(plan.upper_ranks.items()) == [
        (f"h.{layer}.{name}", 5) for layer in (2, 3) for name in ("attn.c_attn", "mlp.c_fc")
    ]


def test_a_plan_is_frozen(model_folder):
    plan = make_plan(config_of(model_folder("gpt2")))
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.cut = 1


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("gpt2", {"model": {"split_layer": 5}}, "model.split_layer: 5 is out of range; the model has 4 layers: 1 to 4"),
        (
            "bert",
            {"task": "causal-lm"},
            "task_groups.g.task: causal-lm needs a decoder, and bert is an encoder; use another model, or one of "
            "multi-label, multiple-choice, question-answering, ",
        ),
        (
            "distilbert",
            {"task": "instruction"},
            "task_groups.g.task: instruction needs a decoder, and distilbert is an encoder; use another model, "
            "or one of multi-label, multiple-choice, question-answering, ",
        ),
        (
            "bert",
            {"task": "token-classification", "privacy": {"labels": {"epsilon": 1.0}}},
            "privacy.labels: randomises one class an example, and an example of token-classification "
            "has none or several",
        ),
        (
            "bert",
            {
                "task": "multiple-choice",
                "privacy": {"examples": {"clip": 1.0, "epsilon": 8}},
                "training": {"labels": "client"},
                "model": {"split_layer": 4},
                "aggregation": {"weights": "uniform"},
            },
            "privacy.examples: clips the gradient of each text by itself, and the loss of multiple-choice holds",
        ),
        (
            "bert",
            {"metric": "acuracy"},
            "task_groups.g.metric: sequence-classification has no metric 'acuracy'; did you",
        ),
        *(
            (
                family,
                {"training": {"max_length": length + 1}},
                f"training.max_length: {length + 1} tokens are more than the model's {length} positions; "
                f"set it to {length} or less",
            )
            for family, length in (("gpt2", 64), ("llama", 64), ("bert", 64), ("distilbert", 64), ("roberta", 65))
        ),
        ("gpt2", {"ranks": (33,)}, "clients.c0.rank: rank 33 is above 32, the size of h.0.attn.c_attn"),
        (
            "llama",
            {"ranks": (4, {1: 17})},
            "clients.c1.rank: rank 17 is above 16, the size of layers.1.self_attn.v_proj",
        ),
        (
            "gpt2",
            {"ranks": (None,), "lora": {"rank": 40}},
            "lora.rank: rank 40 is above 32, the size of h.0.attn.c_attn",
        ),
        (
            "gpt2",
            {"ranks": ({0: 2, 2: 2},)},
            "clients.c0.rank: layer 2 is not on the client half, which has layers 0 to 1; "
            "move it below model.split_layer or raise that",
        ),
        ("gpt2", {"server": {"rank": 33}}, "server.rank: rank 33 is above 32, the size of h.2.attn.c_attn"),
        (
            "gpt2",
            {"model": {"split_layer": 4}, "server": {"rank": 2}},
            "server.rank: the server half has no layers at split_layer 4; set server.rank: 0",
        ),
        (
            "gpt2",
            {"lora": {"targets": ["c_atn"]}},
            "lora.targets: no linear layer of a block is named 'c_atn'",
        ),
        ("gpt2", {"lora": {"targets": []}}, "lora.targets: names no layer; give ends of layer names, or auto"),
        (
            "gpt2",
            {"model": {"init": "random", "config": {"n_head": 5}}},
            "model.config: the model cannot be built: `embed_dim` must be divisible by num_heads",
        ),
    ],
)
def test_what_the_model_cannot_take(family, changes, message, model_folder):
    with pytest.raises(ConfigError) as error:
        make_plan(config_of(model_folder(family), **changes))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("family", "length"), [("gpt2", 64), ("bert", 64), ("roberta", 65), ("distilbert", 64)])
def test_the_longest_length_runs_and_one_more_does_not(family, length, model_folder, monkeypatch):
    make_plan(config_of(model_folder(family), training={"max_length": length}))
    monkeypatch.undo()
    base = load_base(ModelConfig(name=model_folder(family)))
    ids = torch.full((1, length + 1), 7)
    run_half(base.model, torch.ones_like(ids)[:, 1:], input_ids=ids[:, 1:])
    with pytest.raises((IndexError, RuntimeError)):
        run_half(base.model, torch.ones_like(ids), input_ids=ids)


def test_published_roberta_has_512_positions():
    make_plan(config_of("roberta-base", model={"init": "random"}, training={"max_length": 512}))
    with pytest.raises(ConfigError, match="the model's 512 positions"):
        make_plan(config_of("roberta-base", model={"init": "random"}, training={"max_length": 513}))


@pytest.mark.parametrize("cut", [None, 4])
def test_default_and_last_cut(cut, model_folder):
    plan = make_plan(config_of(model_folder("gpt2"), model={"split_layer": cut}))
    assert plan.cut == (cut or 2)
