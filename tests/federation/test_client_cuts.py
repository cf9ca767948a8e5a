"""Clients of one task group with different split layers: what the server adapts for them, and what is merged."""

import copy

import pytest
import torch
from support.by_hand import batches_of, hidden, optimizer, step
from support.rounds import run_round
from support.slow import slow

from atlas_cli.errors import ConfigError, TooFewClientsError
from atlas_cli.experiment.round_loop import deliver, set_up
from atlas_cli.experiment.split_proof import verify_split
from atlas_cli.federation.build import build
from atlas_cli.models.block_paths import layer_of
from atlas_cli.models.halves.split import client_half
from atlas_cli.planning.plan import make_plan
from atlas_cli.wire.ledger import Ledger

CUTS = {"a": 1, "b": 3, "c": 2}
SGD = {"name": "sgd", "lr": 0.05, "momentum": 0.9}
ADAMW = {"name": "adamw", "lr": 0.01, "weight_decay": 0.1}


@pytest.fixture
def unequal(make_config):
    def make(family="bert", cuts=CUTS, **changes):
        made = build(make_config(family, clients={name: {"split_layer": cut} for name, cut in cuts.items()}, **changes))
        draw = torch.Generator().manual_seed(0)
        for adapters in [c.adapters for c in made.clients.values()] + [made.server.groups["g"].adapters]:
            for adapter in adapters.adapters.values():
                with torch.no_grad():
                    adapter.lora_B.copy_(0.05 * torch.randn(adapter.lora_B.shape, generator=draw))
        return made

    return make


def layers(adapters, family):
    return {layer_of(path, family) for path in adapters.adapters}


@pytest.mark.parametrize("opt", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("mode", ["pooled", "per-client"])
@pytest.mark.parametrize("family", ["llama", *slow("bert", "gpt2")])
def test_local_steps_equal_training_by_hand(family, mode, opt, unequal):
    training = {"server_update": mode, "client_optimizer": opt, "server_optimizer": opt, "max_grad_norm": None}
    made = unequal(family, training=training)
    family, config, task = made.base.family, made.config.training, made.data["g"].task
    own = {name: copy.deepcopy(client.adapters) for name, client in made.clients.items()}
    server = (copy.deepcopy(made.server.heads["g"]), copy.deepcopy(made.server.groups["g"].adapters))
    assert layers(server[1], family) == {1, 2, 3} and layers(own["b"], family) == {0, 1, 2}
    batches = {name: list(batches_of(made, name)) for name in CUTS}

    def parts(trained):
        head, upper = trained
        named = {"head": list(head.parameters())}
        return named | {path: list(adapter.parameters()) for path, adapter in upper.adapters.items()}

    def serves(path, client):
        return path == "head" or layer_of(path, family) >= CUTS[client]

    def loss_of(client, i, trained):
        head, upper = trained
        above = copy.copy(upper)
        above.adapters = {path: a for path, a in upper.adapters.items() if serves(path, client)}
        out = hidden(made.base.model, batches[client][i], own[client], above)
        return task.loss(head(out, batches[client][i].attention_mask), batches[client][i].labels)

    copies = {name: copy.deepcopy(server) if mode == "per-client" else server for name in CUTS}
    everything = {id(t): [p for ps in parts(t).values() for p in ps] for t in copies.values()}
    steppers = {key: optimizer(parameters, config.server_optimizer) for key, parameters in everything.items()}
    mine = {name: optimizer(list(adapters.parameters()), config.client_optimizer) for name, adapters in own.items()}
    counts = dict.fromkeys(CUTS, 0)
    for i in range(config.local_steps):
        found = {name: loss_of(name, i, copies[name]) for name in CUTS}
        gradients = {}
        for name, (loss, count) in found.items():
            counts[name] += count
            for path, parameters in parts(copies[name]).items():
                if serves(path, name):
                    each = torch.autograd.grad(loss, parameters, retain_graph=True)
                    gradients.setdefault((id(copies[name]), path), []).append((count, each))
            adapters = list(own[name].parameters())
            step(mine[name], adapters, torch.autograd.grad(loss, adapters, retain_graph=True), None)
        for key, stepper in steppers.items():
            for trained in [t for t in copies.values() if id(t) == key][:1]:
                for path, parameters in parts(trained).items():
                    each = gradients.get((key, path), [])
                    for j, parameter in enumerate(parameters):
                        total = sum(count for count, _ in each)
                        parameter.grad = sum(n * g[j] for n, g in each) / total if each else None
            stepper.step()
    if mode == "per-client":
        with torch.no_grad():
            for path, parameters in parts(server).items():
                for j, parameter in enumerate(parameters):
                    held = [(counts[n], parts(copies[n])[path][j]) for n in CUTS if serves(path, n)]
                    parameter.copy_(sum(n * p for n, p in held) / sum(n for n, _ in held))

    run_round(made, list(CUTS), 1, Ledger(), lambda *_: None)
    tolerance = 5e-6 if opt is SGD else 1e-4  # AdamW makes a share of a step of a rounding error
    for name in CUTS:
        for p, q in zip(made.clients[name].adapters.parameters(), own[name].parameters(), strict=True):
            torch.testing.assert_close(p, q, atol=tolerance, rtol=tolerance)
    now = parts((made.server.heads["g"], made.server.groups["g"].adapters))
    for path, parameters in parts(server).items():
        for p, q in zip(now[path], parameters, strict=True):
            torch.testing.assert_close(p, q, atol=tolerance, rtol=tolerance)


@pytest.mark.slow
def test_the_server_is_a_holder_for_those_it_serves(unequal):
    made = unequal()
    aggregator, family, upper = made.aggregator, made.base.family, made.server.groups["g"]
    run_round(made, list(CUTS), 1, Ledger(), lambda *_: None)
    sent = {name: copy.deepcopy(client.adapters) for name, client in made.clients.items()}
    sent["server"] = copy.deepcopy(upper.adapters)
    weights = {name: member.weight for name, member in aggregator.members.items()}
    aggregator.merge("g", list(CUTS), Ledger(), 1)
    deliver(made, list(CUTS), Ledger())
    for path, merged in aggregator.groups["g"].merged.items():
        layer = layer_of(path, family)
        A, B = torch.zeros_like(merged.A), torch.zeros_like(merged.B)
        for name, cut in CUTS.items():
            adapter = sent[name if layer < cut else "server"].adapters[path]
            share = weights[name] / sum(weights.values())
            A[: adapter.rank] += share * adapter.lora_A
            B[:, : adapter.rank] += share * adapter.scaling * adapter.lora_B
        torch.testing.assert_close(merged.A, A)
        torch.testing.assert_close(merged.B, B)
        holders = [c.adapters for n, c in made.clients.items() if layer < CUTS[n]] + [upper.adapters] * (layer > 0)
        for adapter in (adapters.adapters[path] for adapters in holders):
            torch.testing.assert_close(adapter.lora_A, merged.A[: adapter.rank])
            torch.testing.assert_close(adapter.scaling * adapter.lora_B, merged.B[:, : adapter.rank])
    assert {layer_of(path, family) for path in aggregator.groups["g"].merged} == {0, 1, 2}
    forgotten = {p for p, a in upper.adapters.adapters.items() if not upper.optimizer.state.get(a.lora_A)}
    assert {layer_of(path, family) for path in forgotten} == {
        1,
        2,
    }  # nothing replaced those of layer 3


def test_absent_clients_lend_the_server_no_weight(unequal):
    made = unequal()
    run_round(made, ["b"], 1, Ledger(), lambda *_: None)
    b = copy.deepcopy(made.clients["b"].adapters)
    made.aggregator.merge("g", ["b"], Ledger(), 1)
    for path, merged in made.aggregator.groups["g"].merged.items():
        adapter = b.adapters[path]
        torch.testing.assert_close(merged.B[:, : adapter.rank], adapter.scaling * adapter.lora_B)


@pytest.mark.slow
def test_equal_cuts_are_the_common_cut(make_config, train_quietly):
    config = make_config()
    spelt_out = make_config(clients={name: {"split_layer": 2} for name in CUTS})
    runs = [build(config), build(spelt_out)]
    for made in runs:
        train_quietly(made)
    for name in CUTS:
        states = [made.clients[name].adapters.state() for made in runs]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    heads = [dict(made.server.heads["g"].named_parameters()) for made in runs]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


@pytest.mark.parametrize("labels", slow("client", "server"))
def test_a_run_learns_and_is_proved_at_every_cut(labels, unequal, train_quietly):
    fast = {"name": "adamw", "lr": 0.01}
    training = {"labels": labels, "rounds": 8, "local_steps": 6, "client_optimizer": fast, "server_optimizer": fast}
    made = unequal(training=training)
    checks = verify_split(made)
    assert [(check.split_layer, check.passed) for check in checks] == [(1, True), (2, True), (3, True)]
    train_quietly(made)
    task, test = made.data["g"].task, made.data["g"].test
    assert made.evaluator(task, test, made.models_of_group("g")["g"])["accuracy"] > 0.7


def test_set_up_sends_each_client_its_own_half(unequal):
    made = unequal()
    ledger = set_up(made)
    assert ledger.mismatches() == []
    for name, cut in CUTS.items():
        half = client_half(made.base.model, made.base.family, cut).state_dict()
        assert ledger.entries[name, "base-weights", "down"].payload_bytes == sum(
            t.numel() * t.element_size() for t in half.values()
        )


def test_another_group_keeps_its_own_depth(make_config, toy_csv):
    group = {"task": "sequence-classification", "data": {"files": toy_csv}}
    clients = {"a": {"split_layer": 1}, "d": {"task_group": "h", "split_layer": 3}}
    made = build(make_config(task_groups={"g": group, "h": group}, clients=clients))
    family = made.base.family
    assert layers(made.server.groups["h"].adapters, family) == {3}
    assert layers(made.server.groups["g"].adapters, family) == {1, 2, 3}
    assert set(made.plan.contested("g")) == {p for p in made.plan.upper_ranks if layer_of(p, family) == 1}
    assert made.plan.contested("h") == {}


def test_unequal_cuts_need_adapters_on_the_server(make_config):
    with pytest.raises(ConfigError, match=r"b keeps 3 layers and a of the same task group keeps 1.*server\.rank") as e:
        make_plan(make_config(server={"rank": 0}, clients={n: {"split_layer": c} for n, c in CUTS.items()}))
    assert e.value.key == "clients.b.split_layer"


def test_a_cut_out_of_range_names_its_client(make_config):
    with pytest.raises(ConfigError, match="9 is out of range; the model has 4 layers") as error:
        make_plan(make_config(clients={"b": {"split_layer": 9}}))
    assert error.value.key == "clients.b.split_layer"


class TestAuto:
    """``split_layer: auto``"""

    def plan(self, make_config, memory, **changes):
        devices = {name: {"memory": f"{size} KiB"} for name, size in memory.items()}
        clients = {name: {"device": name, **changes.pop(name, {})} for name in memory}
        return make_plan(make_config(devices=devices, clients=clients, **changes))

    def peaks(self, make_config):
        from atlas_cli.planning.cuts.choice import choose_split
        from atlas_cli.planning.cuts.table import Setting

        config = make_config()
        rows = choose_split(config.model.name, Setting(batch=4, tokens=32, rank=4)).rows
        return [row.memory.peak / 1024 for row in rows]

    def test_each_client_gets_the_deepest_that_fits_its_device(self, make_config):
        peaks = self.peaks(make_config)
        memory = {"a": int(peaks[0]) + 1, "b": int(peaks[2]) + 1, "c": 10**6}
        own = {name: {"split_layer": "auto", "rank": 4} for name in memory}
        plan = self.plan(make_config, memory, **own)
        assert {c.name: c.cut for c in plan.clients} == {"a": 1, "b": 3, "c": 3}  # server.rank needs a layer above
        assert plan.config.clients["c"].split_layer == 3 and plan.cut == 1

    @pytest.mark.slow
    def test_one_cut_for_all_is_what_the_smallest_device_holds(self, make_config):
        peaks = self.peaks(make_config)
        memory = {"a": int(peaks[1]) + 1, "b": 10**6, "c": 10**6}
        plan = self.plan(make_config, memory, model={"split_layer": "auto"}, lora={"rank": 4})
        assert {c.cut for c in plan.clients} == {2} and plan.config.model.split_layer == 2

    @pytest.mark.slow
    def test_nothing_fits(self, make_config):
        with pytest.raises(TooFewClientsError, match="no split layer of"):
            self.plan(make_config, {"a": 1, "b": 10**6, "c": 10**6}, model={"split_layer": "auto"})

    def test_a_client_without_device_is_named(self, make_config):
        with pytest.raises(ConfigError, match="needs a device with memory, and client a has no device") as error:
            make_plan(make_config(model={"split_layer": "auto"}))
        assert error.value.key == "clients.a.device"
