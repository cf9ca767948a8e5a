"""``labels: client``: the head and the labels stay on the client, and nothing else changes."""

import pytest
import torch
from support.rounds import run_round
from support.slow import slow

from atlas_cli.wire.ledger import Ledger

OPT = {"name": "sgd", "lr": 0.3, "momentum": 0.9}
ONE = {"a": {"task_group": "g", "rank": 4}}


@pytest.fixture
def pair(make_federation):
    """The same federation of one client with labels on the server and on the client; adapters not at their start."""

    def make(family, **training):
        both = []
        for labels in ("server", "client"):
            opts = {"client_optimizer": OPT, "server_optimizer": OPT, "max_grad_norm": None, **training}
            # alone: what is left out of a shared pass is not the same on both sides, and Adam magnifies rounding
            made = make_federation(family, training={"labels": labels, **opts}, engine={"fuse": "off"})
            for i, adapters in enumerate([made.clients["a"].adapters, made.server.groups["g"].adapters]):
                for adapter in adapters.adapters.values():
                    generator = torch.Generator().manual_seed(i)
                    with torch.no_grad():
                        adapter.lora_B.copy_(0.05 * torch.randn(adapter.lora_B.shape, generator=generator))
            both.append(made)
        return both

    return make


def state(federation):
    client, server = federation.clients["a"], federation.server
    head = client.head if client.head is not None else server.heads["g"]
    return [*client.adapters.parameters(), *server.groups["g"].adapters.parameters(), *head.parameters()]


@pytest.mark.parametrize("mode", ["pooled", "sequential", "per-client"])
@pytest.mark.parametrize("family", ["gpt2", *slow("bert")])
def test_one_client_trains_as_with_labels_on_the_server(pair, family, mode):
    server, client = pair(family, server_update=mode)
    for p, q in zip(state(server), state(client), strict=True):
        assert torch.equal(p, q)
    start = [p.detach().clone() for p in state(server)]
    done = [run_round(each, ["a"], 1, Ledger(), lambda *_: None)["a"] for each in (server, client)]
    assert done[0].loss == pytest.approx(done[1].loss, abs=1e-6)
    assert (done[0].labels, done[0].examples) == (done[1].labels, done[1].examples)
    for p, q in zip(state(server), state(client), strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-6)
    assert all(not torch.equal(p, q) for p, q in zip(start, state(client), strict=True))


def test_gradients_of_a_step_are_the_same(pair):
    server, client = pair("bert")
    batch = next(iter_batches(server))
    results = []
    for each in (server, client):
        each.server.begin_round({"a": "g"}, 1)
        a = each.clients["a"]
        u_shaped = each is client
        up = a.forward(batch.inputs(), 1, 0, None if u_shaped else batch.labels)
        if u_shaped:
            back, step = a.answer_features(each.server.features(up), batch.labels)
            reply = each.server.answer_gradients(back)
            head = [p.grad for p in a.head.parameters()]
            assert step.count == len(batch.labels)
        else:
            reply, step = each.server.answer(up)
            each.server.accept()
            head = each.server.groups["g"].mean_gradients()[:2]
        a.backward(reply.gradients)
        results.append((step.mean, [reply.gradients, *head, *(p.grad for p in a.adapters.parameters())]))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-7)
    for p, q in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(p, q, atol=1e-7, rtol=1e-6)


def iter_batches(federation):
    from support.by_hand import batches_of

    return batches_of(federation, "a")


@pytest.fixture
def messages(monkeypatch):
    """Every message that crosses the wire."""
    sent = []
    count = Ledger.count

    def keep(self, message, closed_form):
        sent.append(message)
        count(self, message, closed_form)

    monkeypatch.setattr(Ledger, "count", keep)
    return sent


@pytest.mark.parametrize("labels", ["server", "client"])
def test_labels_are_in_no_message(make_federation, train_quietly, messages, labels):
    federation = make_federation("gpt2", training={"labels": labels})
    train_quietly(federation)
    allowed = {
        "activations": {"activations", "attention_mask"},
        "features": {"features"},
        "feature-gradients": {"gradients", "count"},
        "gradients": {"gradients"},
    }
    leaks = []
    for message in messages:
        if message.kind in allowed:
            leaks += set(message.tensors) - allowed[message.kind]
        # whole numbers could be labels or tokens: only a mask and a single count may be such
        whole = {n: t for n, t in message.tensors.items() if not t.is_floating_point() and message.kind in allowed}
        for name, tensor in whole.items():
            if not (tensor.dtype == torch.bool and name == "attention_mask") and tensor.numel() > 1:
                leaks.append(name)
    assert bool(leaks) == (labels == "server"), leaks


@pytest.mark.slow
def test_four_transfers_a_step(make_federation, messages):
    federation = make_federation(training={"labels": "client", "local_steps": 2})
    run_round(federation, ["a", "b"], 1, Ledger(), lambda *_: None)
    step = [("activations", "up"), ("features", "down"), ("feature-gradients", "up"), ("gradients", "down")]
    assert [(m.kind, m.direction) for m in messages if m.client == "a"] == step * 2
    messages.clear()
    run_round(make_federation(training={"local_steps": 2}), ["a"], 1, Ledger(), lambda *_: None)
    assert [(m.kind, m.direction) for m in messages] == [("activations", "up"), ("gradients", "down")] * 2


def test_heads_become_their_weighted_mean_and_are_delivered(make_federation):
    shards = {"a": ["0-19"], "b": ["20-25"], "c": ["26-35"]}
    federation = make_federation(
        training={"labels": "client"}, partition={"scheme": "explicit", "shards": shards, "local_test": 0.0}
    )
    aggregator = federation.aggregator
    assert federation.server.groups["g"].head is None
    for client in federation.clients:
        aggregator.deliver(client, Ledger())
    run_round(federation, ["a", "b"], 1, Ledger(), lambda *_: None)
    heads = {c: [p.detach().clone() for p in federation.clients[c].head.parameters()] for c in "abc"}
    assert not torch.equal(heads["a"][0], heads["b"][0])
    aggregator.merge("g", ["a", "b"], Ledger(), 1)
    a, b = (len(federation.data["g"].shards[client]) for client in "ab")  # less than named: some are held out
    assert b < a < 20
    mean = [a / (a + b) * p + b / (a + b) * q for p, q in zip(heads["a"], heads["b"], strict=True)]
    for p, q in zip(aggregator.heads["g"].parameters(), mean, strict=True):
        torch.testing.assert_close(p, q)
    for client in "abc":
        aggregator.deliver(client, Ledger())
        for p, q in zip(federation.clients[client].head.parameters(), aggregator.heads["g"].parameters(), strict=True):
            assert torch.equal(p, q)
    assert federation.models_of_group("g")["g"].head is aggregator.heads["g"]
