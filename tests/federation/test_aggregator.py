"""Merging and delivery in a federation: hashes, catching up, moments, and what is reported."""

import copy

import pytest
import torch
from support.rounds import run_round

from atlas_cli.errors import AtlasError
from atlas_cli.experiment.round_loop import deliver, require_delivered, set_up, unused_settings, unused_weights
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.wire.ledger import Ledger


def one_round(federation, cohort, number=1):
    run_round(federation, cohort, number, Ledger(), lambda *_: None)
    return federation.aggregator.merge("g", cohort, Ledger(), number)


def products(adapters):
    """dW by layer."""
    return {path: (a.scaling * a.lora_B @ a.lora_A).detach() for path, a in adapters.adapters.items()}


@pytest.fixture
def ready(make_federation):
    def make(*args, **changes):
        federation = make_federation(*args, **changes)
        set_up(federation)
        return federation

    return make


def test_delivered_is_the_group_adapter_at_the_clients_rank(ready):
    federation = ready()
    error = one_round(federation, ["a", "b", "c"])
    deliver(federation, ["a", "b", "c"], Ledger())
    group = federation.aggregator.groups["g"].adapters
    for client in federation.clients.values():
        for path, adapter in client.adapters.adapters.items():
            merged = group.adapters[path]
            assert merged.rank == 4
            assert torch.equal(adapter.lora_A, merged.lora_A[: adapter.rank])
            expected = merged.scaling * merged.lora_B[:, : adapter.rank] / adapter.scaling
            torch.testing.assert_close(adapter.lora_B, expected, atol=1e-9, rtol=1e-6)
    assert 0 < error.overall.total < 1


def test_merged_is_near_the_exact_mean_and_the_error_says_how_near(ready):
    federation = ready()
    run_round(federation, ["a", "b", "c"], 1, Ledger(), lambda *_: None)
    weights = {c: m.weight for c, m in federation.aggregator.members.items()}
    sent = {c: products(federation.clients[c].adapters) for c in "abc"}
    error = federation.aggregator.merge("g", ["a", "b", "c"], Ledger(), 1)
    wrong = size = 0.0
    for path, merged in products(federation.aggregator.groups["g"].adapters).items():
        exact = sum(weights[c] * sent[c][path] for c in "abc") / sum(weights.values())
        wrong += (merged - exact).square().sum().item()
        size += exact.square().sum().item()
    assert error.overall.cross_term == pytest.approx((wrong / size) ** 0.5, rel=1e-4)


def test_lone_client_gets_back_what_it_sent(ready):
    federation = ready(clients={"b": {"rank": 3}})
    a = federation.clients["a"]
    error = one_round(federation, ["a"])
    before = copy.deepcopy(a.adapters.state())
    deliver(federation, ["a"], Ledger())
    for name, tensor in a.adapters.state().items():
        torch.testing.assert_close(tensor, before[name], atol=1e-9, rtol=1e-6)
    assert error.overall.cross_term == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_absent_clients_keep_what_they_have_and_catch_up_later(ready):
    federation = ready()
    c, member = federation.clients["c"], federation.aggregator.members["c"]
    held = copy.deepcopy(c.adapters.state())
    for number in (1, 2):
        one_round(federation, ["a", "b"], number)
        deliver(federation, ["a", "b"], Ledger())
    assert all(torch.equal(t, held[n]) for n, t in c.adapters.state().items())
    assert (member.version, federation.aggregator.groups["g"].version) == (0, 2)
    require_delivered(federation, federation.clients)  # it holds the older delivery, which is right
    ledger = Ledger()
    deliver(federation, ["c"], ledger)
    assert member.version == 2
    assert [e.messages for e in ledger.entries.values()] == [1]  # one delivery brings it up to date
    group = federation.aggregator.groups["g"].adapters.adapters
    assert all(torch.equal(a.lora_A, group[path].lora_A[:3]) for path, a in c.adapters.adapters.items())


def test_nothing_is_sent_to_a_client_that_is_up_to_date(ready):
    federation = ready()
    ledger = Ledger()
    deliver(federation, ["a", "b", "c"], ledger)
    assert ledger.entries == {}


def test_delivery_resets_moments(ready):
    federation = ready()
    one_round(federation, ["a", "b"])
    optimizers = {name: client.optimizer for name, client in federation.clients.items()}
    assert optimizers["a"].state
    deliver(federation, ["a"], Ledger())
    assert not federation.clients["a"].optimizer.state
    assert federation.clients["b"].optimizer.state  # nothing came: it keeps them
    after = federation.clients["a"].optimizer.param_groups[0]["params"]
    assert {id(p) for p in after} == {id(p) for p in federation.clients["a"].trained()}


def test_none_sends_nothing_and_keeps_moments(ready):
    federation = ready(aggregation={"method": "none"})
    optimizer = federation.clients["a"].optimizer
    run_round(federation, ["a", "b"], 1, Ledger(), lambda *_: None)
    held = copy.deepcopy(federation.clients["a"].adapters.state())
    ledger = Ledger()
    assert federation.aggregator.merge("g", ["a", "b"], ledger, 1) is None
    deliver(federation, ["a", "b", "c"], ledger)
    require_delivered(federation, federation.clients)
    assert ledger.entries == {}
    assert federation.clients["a"].optimizer is optimizer and optimizer.state
    assert all(torch.equal(t, held[n]) for n, t in federation.clients["a"].adapters.state().items())
    assert federation.models_of_group("g") == {}


@pytest.mark.parametrize("labels", ["server", "client"])
def test_a_client_that_does_not_hold_its_delivery_is_named(ready, labels):
    federation = ready(training={"labels": labels})
    require_delivered(federation, federation.clients)
    tampered = federation.clients["b"].trained()[-1]  # an adapter, or a number of the head
    with torch.no_grad():
        tampered.flatten()[0].add_(1e-6 + tampered.flatten()[0].abs() * 1e-3)
    with pytest.raises(AtlasError, match="client b does not hold what the server delivered"):
        require_delivered(federation, federation.clients)


def test_a_client_that_loads_something_else_is_found_at_delivery(ready, monkeypatch):
    federation = ready()
    one_round(federation, ["a", "b", "c"])
    monkeypatch.setattr(federation.clients["b"].adapters, "load", lambda state: None)
    monkeypatch.setattr(federation.aggregator.members["b"].adapters, "load", lambda state: None)
    with pytest.raises(AtlasError, match="client b does not hold"):
        deliver(federation, ["a", "b", "c"], Ledger())


def test_a_client_that_changes_between_rounds_stops_the_run(make_federation, train_quietly, monkeypatch):
    """One that is not in the cohort, and whose adapters move all the same."""
    federation = make_federation(training={"cohort": 0.34})
    step = SplitClient.step

    def sideways(self, *args):
        step(self, *args)
        with torch.no_grad():
            for other in federation.clients.values():
                if other is not self:
                    other.trained()[0].add_(1.0)

    monkeypatch.setattr(SplitClient, "step", sideways)
    with pytest.raises(AtlasError, match="does not hold what the server delivered"):
        train_quietly(federation)


@pytest.mark.slow
def test_per_layer_ranks_with_gaps(ready):
    """Client a adapts layer 0 only, b layer 1 only, c both: each layer is merged over those that hold it."""
    clients = {"a": {"rank": {0: 4}}, "b": {"rank": {1: 2}}, "c": {"rank": {0: 1, 1: 3}}}
    federation = ready("gpt2", clients=clients)
    group = federation.aggregator.groups["g"].adapters.adapters
    assert {path: a.rank for path, a in group.items()} == {"h.0.attn.c_attn": 4, "h.1.attn.c_attn": 3}
    before = copy.deepcopy(group["h.1.attn.c_attn"].state_dict())
    one_round(federation, ["a"])
    assert all(torch.equal(t, before[n]) for n, t in group["h.1.attn.c_attn"].state_dict().items())
    deliver(federation, ["a", "b", "c"], Ledger())
    assert list(federation.clients["a"].adapters.adapters) == ["h.0.attn.c_attn"]
    one_round(federation, ["a", "b", "c"], 2)
    deliver(federation, ["a", "b", "c"], Ledger())
    c = federation.clients["c"].adapters.adapters
    assert torch.equal(c["h.1.attn.c_attn"].lora_A, group["h.1.attn.c_attn"].lora_A)
    assert torch.equal(c["h.0.attn.c_attn"].lora_A, group["h.0.attn.c_attn"].lora_A[:1])


def test_groups_do_not_mix(ready, toy_csv):
    two = {"h": {"task": "sequence-classification", "data": {"files": toy_csv}}}
    federation = ready(task_groups=two, clients={"c": {"task_group": "h"}})
    other = copy.deepcopy(federation.aggregator.groups["h"].adapters.state())
    server = copy.deepcopy([p.detach() for p in federation.server.groups["h"].parameters()])
    one_round(federation, ["a", "b"])
    assert all(torch.equal(t, other[n]) for n, t in federation.aggregator.groups["h"].adapters.state().items())
    held = federation.server.groups["h"].parameters()
    assert all(torch.equal(p, q) for p, q in zip(server, held, strict=True))


@pytest.mark.parametrize(
    ("mode", "labels"), [("split-federated", "server"), ("split-federated", "client"), ("federated", "server")]
)
def test_every_record_shows_the_delivered_hash(make_federation, train_quietly, mode, labels):
    federation = make_federation(mode=mode, training={"labels": labels})
    recorder = train_quietly(federation)
    assert len(recorder.clients) == 9
    assert all(r["held_sha256"] == r["delivered_sha256"] for r in recorder.clients)
    hashes = {r["held_sha256"] for r in recorder.clients if r["client"] == "a"}
    assert len(hashes) == 3  # every round delivered something new
    assert sum(r["weight"] for r in recorder.clients if r["round"] == 1) == pytest.approx(1)


@pytest.mark.parametrize(
    ("method", "weights", "said"),
    [
        (
            "median",
            "inverse-rank",
            "median counts each client once, and does not use aggregation.weights: inverse-rank",
        ),
        ("median", "uniform", None),
        ("hetlora", "uniform", "a layer at a time, and does not use aggregation.weights: uniform"),
        ("none", "uniform", "none merges nothing, and does not use aggregation.weights: uniform"),
        ("delta-svd", "inverse-rank", None),
    ],
)
def test_weights_that_a_method_does_not_use_are_said(make_federation, method, weights, said):
    federation = make_federation(aggregation={"method": method, "weights": weights})
    text = unused_weights(federation)
    assert (said in text) if said else text is None
    own = unused_weights(make_federation(aggregation={"method": method}, clients={"b": {"weight": 2.0}}))
    assert own is None if method == "delta-svd" else own.endswith("and does not use clients.b.weight")


def test_settings_that_a_method_does_not_use_are_said(make_federation):
    short = {"server_memory": "1 MiB"}
    assert "use aggregation.server_memory" in unused_settings(make_federation(aggregation={"method": "fedsa", **short}))
    assert unused_settings(make_federation(aggregation={"method": "flexlora", **short})) is None
    heads = {"method": "ravan", "options": {"heads": 2, "size": 4}}
    assert unused_settings(make_federation(aggregation=heads)) is None
    assert "use lora.alpha" in unused_settings(make_federation(aggregation=heads, lora={"alpha": 32}))


def test_weights_that_a_mode_does_not_use_are_said(make_federation):
    alone = make_federation(mode="local-only", aggregation={"method": "delta-svd", "weights": "tokens"})
    assert unused_weights(alone) == "mode: local-only merges nothing, and does not use aggregation.weights: tokens"
