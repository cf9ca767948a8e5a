"""Clients whose frozen weights have a dtype of their own: what they compute, send, hold and are proved to be."""

import math

import pytest
import torch
from support.by_hand import batches_of
from support.merging import asked

import atlas_cli
from atlas_cli import discovery
from atlas_cli.clustering.fingerprints import fingerprint_round
from atlas_cli.data.collate import collate
from atlas_cli.errors import AtlasError
from atlas_cli.experiment.allocation.importance import measure_importance
from atlas_cli.experiment.api.one_round import federated_training_round
from atlas_cli.experiment.round_loop import evaluate, set_up
from atlas_cli.experiment.run_state import RunState
from atlas_cli.experiment.split_check import require_verified
from atlas_cli.experiment.split_proof import verify_split
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.models.frozen.cast import base_in_format
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.frozen.weight_format import WeightFormat
from atlas_cli.models.halves.split import blocks_of, client_half, run_half
from atlas_cli.wire.ledger import Ledger

BF16, FLOAT32 = {"dtype": "bfloat16"}, {"dtype": "float32"}
IN_BF16 = WeightFormat("bfloat16")
ONE = {"clients": {"a": BF16}}
ALL = {"clients": dict.fromkeys("abc", BF16)}


@pytest.fixture
def lines(tmp_path):
    words = ["the", "film", "was", "very", "good", "and", "the", "city", "was", "not"]
    (tmp_path / "lines.txt").write_text(
        "\n".join(" ".join([*words[: 3 + i % 7], str(i)]) for i in range(60)), encoding="utf-8"
    )
    return {"g": {"task": "causal-lm", "data": {"files": str(tmp_path / "lines.txt")}}}


def disturb(federation, std=0.05):
    """Adapters with an effect."""
    parties = [*federation.clients.values(), *(federation.server.groups.values() if federation.server else ())]
    for party in parties:
        draw = torch.Generator().manual_seed(0)
        for adapter in party.adapters.adapters.values():
            torch.nn.init.normal_(adapter.lora_B, std=std, generator=draw)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "bert", "llama", "distilbert"])
def test_activations_are_those_of_a_run_in_that_dtype(family, make_federation):
    ours, theirs = make_federation(family, **ALL), make_federation(family, model=BF16)
    alone = make_federation(family, **ONE)
    for made in (ours, theirs, alone):
        disturb(made)
    for name in "abc":
        for batch in batches_of(ours, name):
            sent = [made.clients[name].forward(batch.inputs(), 1, 0, batch.labels).tensors for made in (ours, theirs)]
            assert sent[0]["activations"].dtype == torch.bfloat16
            assert torch.equal(sent[0]["activations"], sent[1]["activations"])
    batch = next(batches_of(ours, "a"))
    sent = alone.clients["a"].forward(batch.inputs(), 1, 0, batch.labels).activations
    assert torch.equal(sent, ours.clients["a"].forward(batch.inputs(), 1, 0, batch.labels).activations)
    # one copy for all of a dtype, and none for those that have the model's
    assert len({id(client.base) for client in ours.clients.values()}) == 1
    assert [alone.clients[name].base is alone.base for name in "abc"] == [False, True, True]
    assert ours.base.dtype == torch.float32 and ours.server.base is ours.base


def test_naming_the_dtype_of_the_model_changes_nothing(make_federation, train_quietly):
    spelt_out = {"clients": dict.fromkeys("abc", FLOAT32)}
    plain, named = make_federation(), make_federation(**spelt_out)
    records = [train_quietly(made) for made in (plain, named)]
    assert all(client.base is named.base for client in named.clients.values())
    ours, theirs = RunState(plain).capture(), RunState(named).capture()
    assert ours[1] == theirs[1] and ours[0].keys() == theirs[0].keys()
    assert all(torch.equal(ours[0][name], theirs[0][name]) for name in ours[0])
    kept = ("train_loss", "test", "bytes_up", "bytes_down")
    assert [{k: m[k] for k in kept} for m in records[0].metrics] == [
        {k: m[k] for k in kept} for m in records[1].metrics
    ]


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["server", "client"])
@pytest.mark.parametrize(("family", "lm"), [("gpt2", True), ("bert", False), ("llama", False), ("distilbert", False)])
@pytest.mark.parametrize("cut", [2, 4])
def test_the_split_is_proved_for_each_dtype(cut, family, lm, labels, lines, make_federation):
    groups = {"task_groups": lines} if lm else {}
    below = {"model": {"split_layer": cut}, "server": {"rank": 2 if cut < 4 else 0}}
    made = make_federation(family, **ONE, **groups, **below, training={"labels": labels})
    other, own = sorted(verify_split(made), key=lambda check: check.dtype or "")
    require_verified([other, own])
    assert f"g at layer {cut} in bfloat16: loss differs by" in own.sentence() and "float" not in other.sentence()
    assert own.record()["dtype"] == "bfloat16" and "dtype" not in other.record()
    assert own.loss_difference <= 1e-6 and own.gradient_difference <= 1e-4 and own.gradient_norm > 1e-4
    assert own.tolerance >= 1e-2 > 1e-5 > other.tolerance


@pytest.mark.slow
def test_proofs_are_for_every_cut_and_dtype(make_federation):
    clients = {"a": {**BF16, "split_layer": 1}, "b": {**BF16, "split_layer": 3}, "c": {"split_layer": 3}}
    made = make_federation(clients=clients)
    checks = verify_split(made)
    assert [(c.split_layer, c.dtype) for c in checks] == [(1, "bfloat16"), (3, "bfloat16"), (3, None)]
    require_verified(checks)
    assert made.clients["a"].base is made.clients["b"].base


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["server", "client"])
def test_a_client_may_be_wider_than_the_model(labels, lines, make_federation, train_quietly):
    wider = {"model": BF16, "clients": {"a": FLOAT32}, "task_groups": lines}
    made = make_federation("llama", **wider, training={"labels": labels})
    checks = verify_split(made)
    require_verified(checks)
    assert {check.dtype for check in checks} == {"float32", None}
    recorder = train_quietly(made)
    assert all(math.isfinite(m["train_loss"]) for m in recorder.metrics if m["round"])


def test_a_spoiled_copy_is_not_trained_with(make_federation):
    made = make_federation("gpt2", **ONE)
    require_verified(verify_split(made))
    blocks_of(made.clients["a"].base.model, made.base.family)[1].mlp.c_fc.weight[0, 0] += 0.25
    with pytest.raises(AtlasError, match=r"clients of task group g hold in bfloat16 are not the model's.*by 0\.25"):
        require_verified(verify_split(made))


@pytest.mark.parametrize("harm", ["cut", "mask", "gradient"])
def test_a_wrong_split_of_two_dtypes_is_found(harm, make_federation, monkeypatch):
    made = make_federation("gpt2", **ALL)
    require_verified(verify_split(made))
    if harm == "cut":
        monkeypatch.setattr(FrozenBase, "client_half", lambda base, cut: client_half(base.model, base.family, cut - 1))
    elif harm == "mask":
        forward = SplitClient.forward

        def blind(self, *args):
            message = forward(self, *args)
            message.attention_mask[:] = True
            return message

        monkeypatch.setattr(SplitClient, "forward", blind)
    else:
        backward = SplitClient.backward
        monkeypatch.setattr(SplitClient, "backward", lambda self, gradients: backward(self, gradients * 1.1))
    with pytest.raises(AtlasError, match="split at layer 2 in bfloat16 is not the unsplit model for task group g"):
        require_verified(verify_split(made))


@pytest.mark.slow
@pytest.mark.parametrize("method", discovery.names("aggregation.methods"))
def test_every_method_trains_with_mixed_dtypes(method, make_federation, train_quietly):
    made = make_federation(**ONE, aggregation=asked(method), training={"rounds": 2, "local_steps": 1})
    recorder = train_quietly(made)  # every delivery is compared by hash, and every byte with its closed form
    assert all(math.isfinite(m["train_loss"]) for m in recorder.metrics if m["round"])
    changed = made.clients["a"].adapters.frozen
    assert bool(changed) == (method in ("flora", "fedex"))
    assert all(t.dtype == torch.float32 for pieces in changed.values() for pair in pieces for t in pair)
    assert all(t.dtype == torch.float32 for t in made.clients["a"].adapters.parameters())


@pytest.mark.slow
def test_the_changed_base_is_run_beside_the_cast_weights(make_federation, train_quietly):
    """After a merge of ``flora`` the adapters are 0: a client runs W, in its dtype, plus T."""
    fast = {"client_optimizer": {"lr": 0.02}, "server_optimizer": {"lr": 0.02}, "rounds": 1}
    made = make_federation("gpt2", **ONE, aggregation={"method": "flora"}, training=fast)
    train_quietly(made)
    a = made.clients["a"]
    batch = next(batches_of(made, "a"))
    with_change = a.forward(batch.inputs(), 2, 0, None).activations
    merged = base_in_format(made.base, IN_BF16)
    with torch.no_grad():
        for path, pieces in a.adapters.frozen.items():
            weight = merged.model.get_submodule(path).weight
            whole = made.base.model.get_submodule(path).weight + sum(B @ A for A, B in pieces).T
            weight.copy_(whole)
        half = client_half(merged.model, merged.family, 2)
        by_hand = run_half(half, batch.attention_mask, input_ids=batch.input_ids)
        plain = run_half(a.half, batch.attention_mask, input_ids=batch.input_ids)
    gap, effect = (with_change - by_hand).norm(), (with_change - plain).norm()
    assert with_change.dtype == torch.bfloat16 and effect > 5 * gap


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["federated", "local-only"])
def test_a_client_with_the_whole_model(mode, make_federation, train_quietly):
    method = {"aggregation": {"method": "none"}} if mode == "local-only" else {}
    made = make_federation("llama", **ONE, mode=mode, **method)
    a, b = made.clients["a"], made.clients["b"]
    assert (a.base.dtype, b.base) == (torch.bfloat16, made.base)
    weights = {c: e.payload_bytes for (c, kind, _), e in set_up(made).entries.items() if kind == "base-weights"}
    assert 2 * weights["a"] == weights["b"]
    recorder = train_quietly(made)
    assert all(math.isfinite(m["train_loss"]) for m in recorder.metrics if m["round"])


def test_the_pooled_learner_has_the_dtype_of_the_model(make_federation):
    made = make_federation(**ALL, mode="centralized")
    assert all(client.base is made.base for client in made.clients.values())
    assert set_up(made).mismatches() == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["split-federated", "federated"])
def test_group_scores_are_of_the_model_and_a_local_test_is_of_the_client(mode, make_federation):
    mixed, plain, narrow = (make_federation("gpt2", mode=mode, **changes) for changes in (ONE, {}, {"model": BF16}))
    for made in (mixed, plain, narrow):
        disturb(made, std=0.3)
    ours, theirs, other = (evaluate(made) for made in (mixed, plain, narrow))
    assert ours.test == theirs.test != other.test
    assert ours.clients["b"] == theirs.clients["b"] and ours.clients["c"] == theirs.clients["c"]
    assert ours.clients["a"] != theirs.clients["a"]
    if mode == "federated":  # the whole model is the client's
        assert ours.clients["a"] == other.clients["a"]
        return
    a, task = mixed.clients["a"], mixed.data["g"].task
    batch = collate(task, mixed.data["g"].local_test["a"], mixed.pad)
    mixed.server.begin_round({"a": "g"}, 1)
    message = a.forward(batch.inputs(), 0, 0, batch.labels)
    assert ours.clients["a"]["loss"] == pytest.approx(mixed.server.answer(message)[1].mean, rel=1e-6)


@pytest.mark.slow
def test_probes_are_of_the_clients_own_weights(make_federation):
    mixed, plain, narrow = make_federation(**ONE), make_federation(), make_federation(**ALL)
    found = [fingerprint_round(made, Ledger()) for made in (mixed, plain, narrow)]
    assert torch.equal(found[0]["a"], found[2]["a"]) and not torch.equal(found[0]["a"], found[1]["a"])
    assert torch.equal(found[0]["b"], found[1]["b"])
    layers = [measure_importance(made, "a") for made in (mixed, plain, narrow)]
    assert layers[0] == layers[2] != layers[1]
    ledger = Ledger()
    fingerprint_round(mixed, ledger)
    assert ledger.mismatches() == []


def test_the_python_interface_takes_a_client_of_another_dtype(make_federation):
    made = make_federation("gpt2")
    cast = base_in_format(made.base, IN_BF16, layers=2)
    clients = [atlas_cli.SplitClient(name, None, 4, 2, base=base) for name, base in (("a", cast), ("b", made.base))]
    server = atlas_cli.SplitServer(base=made.base, split_layer=2)
    ids = torch.full((2, 6), 7)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    result = federated_training_round(clients, server, {"a": batch, "b": batch}, {0: ["a", "b"]})
    assert math.isfinite(result["avg_loss"]) and result["losses"]["a"] == pytest.approx(result["losses"]["b"], abs=0.05)
    activations = clients[0].compute_activations({"inputs": torch.randn(2, 32)})
    loss, gradients = server.compute_loss(activations, torch.tensor([0, 1]))
    assert activations.dtype == gradients.dtype == torch.bfloat16 and torch.isfinite(loss)
    clients[0].apply_gradients(gradients)
