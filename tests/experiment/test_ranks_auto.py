"""``rank: auto`` from config to ranks: what a unit costs against predicted memory, budgets kept, errors by name."""

import itertools
import random
import re
from dataclasses import replace

import pytest
import torch

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.data.prepare import prepare
from atlas_cli.errors import ConfigError
from atlas_cli.experiment.allocation import auto_ranks
from atlas_cli.experiment.allocation.auto_ranks import plan_ranks
from atlas_cli.experiment.allocation.device_fit import fit_to_devices
from atlas_cli.federation import loaded_experiment
from atlas_cli.federation.build import build, make_federation
from atlas_cli.models.frozen.load import load_tokenizer
from atlas_cli.planning.memory.party_memory import PartyMemory
from atlas_cli.planning.memory.predict import predict_client
from atlas_cli.planning.memory.step import Step
from atlas_cli.planning.memory_assumptions import beside_ranks
from atlas_cli.planning.memory_of_plan import predict
from atlas_cli.planning.plan import make_plan
from atlas_cli.planning.ranks.costs import by_path, rank_costs
from atlas_cli.planning.ranks.rules import RankProblem, allocate


@pytest.fixture(scope="module")
def tone_csv(tmp_path_factory):
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("data") / "tone.csv"
    tone = {"pos": ["good", "great"], "neg": ["bad", "awful"]}
    rows = [
        (" ".join([*draw.choices(["the", "film", "was"], k=6), draw.choice(tone[c])]), c)
        for c in tone
        for _ in range(30)
    ]
    path.write_text("\n".join(["text,label", *(f"{text},{label}" for text, label in rows)]) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def config_of(model_folder, tone_csv):
    """Three layers of width 32 on the clients: two of kind a with ``memory`` bytes and rank: auto, and b of rank 2."""

    def make(family="bert", memory=None, device=None, **changes):
        config = {
            "name": "toy",
            "device": "cpu",
            "model": {"name": model_folder(family), "split_layer": 3},
            "devices": {"phone": {"memory": f"{memory} B"} if memory else device or {}},
            "task_groups": {"g": {"task": "sequence-classification", "data": {"files": tone_csv}}},
            "clients": {
                "a": {"task_group": "g", "device": "phone", "rank": "auto", "count": 2},
                "b": {"task_group": "g", "rank": 2},
            },
            "allocation": {"r_max": 16},
            "training": {"rounds": 1, "local_steps": 2, "batch_size": 4, "max_length": 16},
        }
        for section, change in changes.items():
            whole = section in ("clients", "mode")
            config[section] = change if whole else {**config.get(section, {}), **change}
        return ExperimentConfig.model_validate(config)

    return make


def costs_of(plan, **options):
    """Targets, predicted peak and costs of the first client, at r_min 1 and r_max 16."""
    layers = {}
    for path in plan.clients[0].ranks:
        layers.setdefault(int(path[len(plan.family.blocks) + 1 :].split(".")[0]), {})[path] = plan.features[path]

    def memory(ranks):
        return predict_client(plan.family, plan.hf_config, plan.cut, ranks, plan.features, Step(4, 16, **options))

    return layers, memory, rank_costs(memory, lambda ranks: 0, layers, 64, 1, 16)


CLOSED = [
    *((family, {}) for family in ("bert", "gpt2", "llama")),
    ("gpt2", {"dtype": "bfloat16"}),
    ("bert", {"optimizer": "sgd"}),
    ("llama", {"optimizer": "sgd-momentum"}),
    *((family, {"checkpointing": True}) for family in ("gpt2", "llama")),
]
TRACED = [
    ("distilbert", {}),
    ("gpt2", {"autocast": True}),
    ("bert", {"dropout": 0.1, "checkpointing": True}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "options"), [*CLOSED, *TRACED])
def test_predicted_peak_is_never_above_what_units_add_up_to(config_of, family, options):
    layers, memory, costs = costs_of(make_plan(config_of(family, memory=1)), **options)
    traced = (family, options) in TRACED
    draw = random.Random(0)
    for _ in range(1 if traced else 2):  # each is a trace of its own
        ranks = {layer: draw.randint(1, 16) for layer in layers}
        predicted = memory(by_path(ranks, layers))
        added = costs.fixed["memory"] + sum(r * costs.unit_costs[layer]["memory"] for layer, r in ranks.items())
        assert predicted.peak <= added
        if not traced and "checkpointing" not in options:
            assert added <= 1.06 * predicted.peak  # not all gradients are there when most is alive
    moments = {"sgd": 0, "sgd-momentum": 1}.get(options.get("optimizer"), 2)
    for layer, paths in layers.items():
        closed_form = sum((d_in + d_out) * 4 * (2 + moments) + 4 * 64 for d_in, d_out in paths.values())
        cost = costs.unit_costs[layer]["memory"]
        if "autocast" in options:  # casts of A and B are saved, too, and scale the closed form up
            assert closed_form < cost <= 1.1 * closed_form
        else:
            assert cost == closed_form


def test_a_traced_peak_that_rises_faster_scales_the_units_up():
    targets = {0: {"h.0.x": (10, 20)}, 1: {"h.1.x": (10, 20)}}
    parts = dict.fromkeys(["frozen_weights", "heads", "transient", "cut_buffers", "adapters"], 0)

    def memory(ranks):
        return PartyMemory(**parts, gradients=1, optimizer=2, saved_activations=1000 * sum(ranks.values()))

    costs = rank_costs(memory, lambda ranks: 7, targets, 5, 2, 8)
    assert {unit["memory"] for unit in costs.unit_costs.values()} == {1000}
    assert costs.fixed == {"memory": 3, "uplink": 7}
    assert {unit["uplink"] for unit in costs.unit_costs.values()} == {0}  # ranks do not change what is sent


def test_small_layers_lower_r_max():
    targets = {0: {"h.0.x": (10, 20), "h.0.y": (10, 4)}, 1: {"h.1.x": (10, 20)}}
    zero = PartyMemory(0, 0, 0, 1, 2, 0, 0, 0)
    costs = rank_costs(lambda ranks: zero, lambda ranks: 100 + sum(ranks.values()), targets, 5, 1, 64)
    assert costs.r_max == {0: 4, 1: 10}


@pytest.fixture
def no_weights(monkeypatch):
    def refuse(*_):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(auto_ranks, "load_experiment", refuse)


def least(config):
    """Predicted peak at r_min."""
    layers, memory, costs = costs_of(make_plan(config), fused_gelu=True)
    return memory(by_path(dict.fromkeys(layers, 1), layers)).peak, costs.unit_costs[0]["memory"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["uniform", "random"])
def test_controls_fit_the_device_without_weights(config_of, no_weights, method):
    peak, unit = least(config_of(memory=1))
    memory = int(peak + 10.5 * unit)
    planned = plan_ranks(config_of(memory=memory), method)
    for client in planned.clients[:2]:
        assert client.memory.peak <= memory
        assert client.allocation.used["memory"] <= memory
        assert client.allocation.stopped_at.resource == "memory"
        assert sum(client.ranks.values()) == {"uniform": 12, "random": 13}[method]
    assert (planned.method, planned.clients[2].ranks, planned.clients[2].allocation) == (
        method,
        {0: 2, 1: 2, 2: 2},
        None,
    )


def test_ranks_follow_importance_and_fill_the_memory(config_of):
    peak, unit = least(config_of(memory=1))
    memory = int(peak + 10.5 * unit)
    planned = plan_ranks(config_of(memory=memory))
    first, second, fixed = planned.clients
    assert [c.name for c in planned.clients] == ["a-1", "a-2", "b"]
    assert first.importance != second.importance and fixed.importance is None
    for client in (first, second):
        assert sum(client.ranks.values()) == 13
        assert 0.97 * (peak + 10 * unit) <= client.memory.peak <= peak + 10 * unit <= memory
        ordered = sorted(client.ranks, key=client.importance.__getitem__)
        assert [client.ranks[layer] for layer in ordered] == sorted(client.ranks.values())
        room = planned.clients[0].allocation
        assert client.adapter_parameters == sum(r * 2 * 64 for r in client.ranks.values())
        assert room.budgets["memory"] == memory


@pytest.mark.slow
def test_resolved_config_trains_the_same_clients_with_numbers(config_of):
    peak, unit = least(config_of(memory=1))
    config = config_of(memory=int(peak + 10.5 * unit))
    planned = plan_ranks(config)
    resolved, ranks = planned.config, {c.name: c.ranks for c in planned.clients}
    specs = {spec.name: spec for spec in resolved.expanded_clients()}
    assert list(specs) == ["a-1", "a-2", "b"]
    assert {name: specs[name].rank for name in ("a-1", "a-2")} == {name: ranks[name] for name in ("a-1", "a-2")}
    assert resolved.clients["b"] == config.clients["b"]
    assert resolved.clients["a-1"].device == "phone"
    assert ExperimentConfig.model_validate(resolved.model_dump()) == resolved
    assert plan_ranks(resolved).config == resolved
    tokenizer = load_tokenizer(config.model)
    assert prepare(resolved, tokenizer, False)["g"].train == prepare(config, tokenizer, False)["g"].train
    federation = build(resolved)
    held = {name: {p.rank for p in c.adapters.adapters.values()} for name, c in federation.clients.items()}
    assert held == {name: set(each.values()) for name, each in ranks.items()}


@pytest.mark.slow
def test_a_run_goes_on_with_what_was_loaded_for_its_ranks(config_of, monkeypatch):
    loads = []
    real = loaded_experiment.load_base
    monkeypatch.setattr(loaded_experiment, "load_base", lambda *a, **k: loads.append(1) or real(*a, **k))
    peak, unit = least(config_of(memory=1))
    config = config_of(memory=int(peak + 10.5 * unit))
    ranks = fit_to_devices(config)
    federation = make_federation(ranks.loaded.with_ranks(make_plan(ranks.config)))
    assert loads == [1]
    anew = build(ranks.config)
    assert federation.config == anew.config and federation.base.sha256 == anew.base.sha256
    for name, party in anew.clients.items():
        mine = federation.clients[name].adapters.state()
        assert all(torch.equal(mine[path], value) for path, value in party.adapters.state().items())
        assert federation.train_features(name) == anew.train_features(name)
    assert fit_to_devices(config_of(memory=int(peak + 10.5 * unit), mode="local-only")).loaded is None  # bases differ


def test_equal_ranks_are_written_as_one_number(config_of):
    config = config_of(memory=10**9)
    assert plan_ranks(config, "uniform").config.clients["a-1"].rank == 16


@pytest.mark.slow
def test_peaks_count_what_is_run_beside_ones_own_components(config_of, no_weights):
    """With fed-plora all hold the components of the group's largest rank, which is known once all have theirs."""
    peak, unit = least(config_of(memory=1))
    config = config_of(memory=int(peak + 10.5 * unit), aggregation={"method": "fed-plora"})
    planned = plan_ranks(config, "uniform")
    assert {client.name: client.ranks[0] for client in planned.clients} == {"a-1": 4, "a-2": 4, "b": 2}
    said = predict(make_plan(planned.config), {"g": ["neg", "pos"]}).clients
    assert [client.memory for client in planned.clients] == [said[client.name] for client in planned.clients]
    assert said["b"].adapters == said["a-1"].adapters
    (note,) = beside_ranks(config)
    assert "fed-plora" in note and "lower allocation.r_max" in note
    assert beside_ranks(planned.config) == beside_ranks(config_of(memory=1)) == []


@pytest.mark.slow
def test_baselines_get_the_ranks_of_the_split(config_of):
    peak, unit = least(config_of(memory=1))
    memory = int(peak + 10.5 * unit)
    split, unsplit = plan_ranks(config_of(memory=memory)), plan_ranks(config_of(memory=memory, mode="local-only"))
    assert [c.ranks for c in unsplit.clients] == [c.ranks for c in split.clients]
    assert unsplit.config.mode == "local-only"


@pytest.mark.slow
def test_more_memory_or_uplink_never_lowers_a_rank(config_of, no_weights):
    peak, unit = least(config_of(memory=1))
    found = []
    for units in (0, 4, 20):
        planned = plan_ranks(config_of(memory=int(peak + units * unit)), "random")
        found.append(planned.clients[0].ranks)
    for less, more in itertools.pairwise(found):
        assert all(more[layer] >= less[layer] for layer in less)
    assert found[0] == {0: 1, 1: 1, 2: 1} and found[-1] != found[0]


def test_uniform_ranks_fit_to_the_byte(config_of, no_weights):
    clients = {"a": {"task_group": "g", "device": "phone", "rank": "auto"}}
    free = plan_ranks(config_of("distilbert", memory=10**9, clients=clients), "uniform").clients[0]
    memory = free.memory.peak - 1
    limited = plan_ranks(config_of("distilbert", memory=memory, clients=clients), "uniform").clients[0]
    assert limited.memory.peak <= memory
    assert 12 <= limited.ranks[0] < free.ranks[0] == 16


@pytest.mark.slow
def test_uplink_budget_limits_what_a_round_sends(config_of, no_weights):
    device = {"memory": "1 GiB", "uplink": "1 Mbit/s"}
    free = plan_ranks(config_of(device=device), "random").clients[0]
    seconds = (free.uplink - 20_000) * 8 / 1e6
    config = config_of(device=device, allocation={"uplink_seconds": seconds, "r_max": 16})
    limited = plan_ranks(config, "random").clients[0]
    assert free.allocation.stopped_at is None
    assert limited.allocation.stopped_at.resource == "uplink"
    assert limited.uplink <= limited.allocation.used["uplink"] <= free.uplink - 20_000
    assert limited.allocation.used["uplink"] - limited.uplink < 64  # digits in headers
    assert limited.uplink > free.uplink - 20_000 - 4 * 2 * 64 - 64


@pytest.mark.slow
def test_labels_on_the_client_cost_memory_and_uplink(config_of, no_weights):
    clients = {"a": {"task_group": "g", "rank": 2}}
    there, here = (
        plan_ranks(config_of(clients=clients, training={"labels": side})).clients[0] for side in ("server", "client")
    )
    head = 4 * 2 * (32 + 1)
    assert (there.memory.heads, here.memory.heads) == (0, head)
    assert here.memory.peak > there.memory.peak
    # the head, and the gradient of the features in each of two steps
    assert here.uplink - there.uplink > head + 2 * 4 * 16 * 32 * 4 - 2 * 8 * 4


def message_of(config, method=None):
    with pytest.raises(ConfigError) as raised:
        plan_ranks(config, method)
    return str(raised.value)


@pytest.mark.slow
def test_a_client_that_cannot_afford_r_min_is_named_before_weights_are_loaded(config_of, no_weights):
    peak, _ = least(config_of(memory=1))
    text = message_of(config_of(memory=peak - 1))
    assert text.startswith("clients.a.rank: client a-1 needs ")
    assert "with rank 1 in every layer and has" in text and "too little" in text
    assert plan_ranks(config_of(memory=peak), "uniform").clients[0].memory.peak == peak
    assert re.search(r"a device with more memory, or set (.* or )?checkpointing: true \(needs ", text)
    kept = {"a": {"task_group": "g", "device": "phone", "rank": "auto", "checkpointing": True}}
    assert plan_ranks(config_of(memory=peak - 1, clients=kept), "uniform").clients[0].memory.peak < peak
    assert "or set" not in message_of(config_of(memory=1))  # none of them is enough


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clients": {"a": {"task_group": "g", "rank": "auto"}}}, r"clients\.a\.rank: .*needs a device"),
        (
            {"clients": {"a": {"task_group": "g", "rank": "auto", "device": "phone-9gib"}}},
            r"clients\.a\.device: .*'phone-9gib'; did you mean",
        ),
        ({"device": {"uplink": "1 Mbit/s"}}, r"devices\.phone: has no memory"),
        ({"memory": 10**9, "allocation": {"uplink_seconds": 3.0}}, r"devices\.phone: has no uplink"),
        (
            {"memory": 10**9, "allocation": {"r_min": 8, "r_max": 4}},
            r"allocation\.r_min: 8 is above 4, allocation\.r_max",
        ),
        ({"memory": 10**9, "allocation": {"r_min": 40, "r_max": 64}}, r"allocation\.r_min: 40 is above 32, the size"),
    ],
)
def test_bad_input_is_named_by_its_key(config_of, no_weights, changes, message):
    with pytest.raises(ConfigError, match=message):
        plan_ranks(config_of(**changes))


def test_a_built_in_profile_needs_no_devices_section(config_of, no_weights):
    clients = {"a": {"task_group": "g", "rank": "auto", "device": "phone-2gib"}}
    (client,) = plan_ranks(config_of(clients=clients), "uniform").clients
    assert client.device.memory == 2 * 2**30
    assert client.ranks == {0: 16, 1: 16, 2: 16}


def test_prefix_greedy_is_what_the_plan_uses(config_of):
    peak, unit = least(config_of(memory=1))
    config = config_of(memory=int(peak + 10.5 * unit))
    planned = plan_ranks(config).clients[0]
    _, _, costs = costs_of(make_plan(config), fused_gelu=True)
    costs = replace(costs, r_max=dict.fromkeys(range(3), 16))
    budgets = {"memory": peak + 10.5 * unit}
    by_hand = allocate(RankProblem(planned.importance, costs.unit_costs, budgets, costs.fixed, 1, costs.r_max))
    assert by_hand.ranks == planned.ranks
