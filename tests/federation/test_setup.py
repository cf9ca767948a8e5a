"""What a client must be sent before it can start, what it then holds in memory, and what its weight is."""

import json

import pytest
import torch

from atlas_cli.data.collate import collate
from atlas_cli.experiment.manifest_facts import data_facts
from atlas_cli.experiment.round_loop import set_up
from atlas_cli.federation.parties.measured_memory import saved_bytes
from atlas_cli.wire.ledger import Ledger


def base_weights(federation):
    return {c: e.payload_bytes for (c, kind, _), e in set_up(federation).entries.items() if kind == "base-weights"}


def numbers(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("labels", ["server", "client"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_language_model_head_is_counted_where_logits_are_computed(make_federation, lines, family, labels):
    """GPT-2's output embedding is its input embedding, which clients have; LLaMA's is another matrix."""
    federation = make_federation(family, task_groups=lines, training={"labels": labels})
    client, base = federation.clients["a"], federation.base
    own = 4 * base.lm_head.weight.numel() if family == "llama" and labels == "client" else 0
    assert set(base_weights(federation).values()) == {4 * numbers(client.half) + own}
    assert client.measure().heads == own
    assert client.usage.frozen_weights == sum(
        t.numel() * t.element_size() for t in (*client.half.parameters(), *client.half.buffers())
    )


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_unsplit_clients_get_the_whole_model(make_federation, lines, family):
    federation = make_federation(family, task_groups=lines, mode="federated")
    base = federation.base
    own = 4 * base.lm_head.weight.numel() if family == "llama" else 0
    assert set(base_weights(federation).values()) == {4 * numbers(base.model) + own}
    assert federation.clients["a"].measure().heads == own


def test_initial_adapters_and_heads_are_sent_once(make_federation):
    ledger = set_up(make_federation(training={"labels": "client"}))
    assert {(kind, way, e.messages) for (_, kind, way), e in ledger.entries.items()} == {
        ("base-weights", "down", 1),
        ("adapters", "down", 1),
        ("head", "down", 1),
    }


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_u_shaped_client_holds_what_its_head_saves(make_federation, lines, family):
    """Saved bytes with the head on the client: those of the half, and those of head and loss while it is alive."""
    groups = {"task_groups": lines} if family == "gpt2" else {}
    federation = make_federation(family, training={"labels": "client"}, **groups)
    client, server = federation.clients["a"], federation.server
    task = federation.data["g"].task
    batch = collate(task, federation.train_features("a")[:4], federation.pad)
    server.begin_round({"a": "g"}, 1)
    client.measure()
    features = server.features(client.forward(batch.inputs(), 1, 0, None))
    lower = client.usage.saved_activations
    client.answer_features(features, batch.labels)
    hidden = features.features.detach().requires_grad_()
    with saved_bytes(
        [*client.head.parameters(), *federation.base.lm_head.parameters()] if family == "gpt2" else []
    ) as s:
        task.loss(client.head(hidden, batch.attention_mask), batch.labels)
    assert lower > 0 and s.total > 0
    assert client.usage.saved_activations - lower == pytest.approx(s.total, abs=4 * 2 * 33)
    assert client.usage.cut_buffers == 4 * hidden.numel() * 4
    assert client.usage.batch_tokens == batch.input_ids.numel()


@pytest.mark.parametrize("task", ["causal-lm", "sequence-classification"])
def test_weights_are_the_labels_that_a_client_trains_on(make_federation, lines, task):
    groups = {"task_groups": lines} if task == "causal-lm" else {}
    federation = make_federation("gpt2", **groups)
    for name, member in federation.aggregator.members.items():
        built = federation.data["g"].task
        batch = collate(built, federation.train_features(name), federation.pad)
        shape = (
            (*batch.input_ids.shape, federation.base.config.vocab_size)
            if task == "causal-lm"
            else (len(batch.labels), 2)
        )
        assert member.weight == built.loss(torch.zeros(shape), batch.labels)[1]


def test_a_question_weighs_the_same_however_many_windows_it_takes(make_federation, tmp_path):
    answers = {"text": ["river"], "answer_start": [4]}
    contexts = ["the river was good"] * 4 + ["the river was " + "very " * 60] * 4
    rows = [{"question": f"what {i}", "context": text, "answers": answers} for i, text in enumerate(contexts)]
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    (tmp_path / "t.jsonl").write_text(json.dumps(rows[7] | {"question": "other"}), encoding="utf-8")
    data = {"files": str(tmp_path / "d.jsonl"), "test_files": str(tmp_path / "t.jsonl")}
    federation = make_federation(
        task_groups={"g": {"task": "question-answering", "data": data}},
        partition={"scheme": "explicit", "shards": {"a": ["0-3"], "b": ["4-5"], "c": ["6-7"]}, "local_test": 0},
    )
    features = federation.data["g"].train
    assert len(features["a"]) == 4 and len(features["b"]) > 4
    assert [federation.aggregator.members[c].weight for c in "abc"] == [4, 2, 2]
    facts = data_facts(federation)["g"]
    assert (facts["train"], facts["test"]) == (8, 1)
    assert facts["sequences"]["train"] == sum(map(len, features.values())) and facts["sequences"]["test"] > 1


def test_one_data_seed_gives_all_seeds_the_same_rows(make_federation):
    def rows(**seeds):
        data = make_federation(training={"rounds": 1}, **seeds).data["g"]
        return data.data.test, data.shards, {c: [f["row"] for f in data.local_test[c]] for c in "abc"}

    assert rows(seed=1, data_seed=7) == rows(seed=2, data_seed=7) == rows(seed=7)
    assert all(a != b for a, b in zip(rows(seed=1), rows(seed=2), strict=True))


def test_the_manifest_counts_every_row(make_federation, toy_csv):
    shards = {"a": ["0-9"], "b": ["10-19"], "c": ["20-29"]}
    federation = make_federation(partition={"scheme": "explicit", "shards": shards, "local_test": 0.2})
    facts = data_facts(federation)["g"]
    held_out = federation.data["g"].data.numbered.held_out
    named = 30 - sum(i < 30 for i in held_out)
    assert facts["train"] + facts["local_test"] == named and facts["local_test"] > 0
    account = facts["rows"]
    assert (account["read"], account["test_read"]) == (60, len(held_out))
    assert account["train"] - account["unused"] == named and account["test"] == facts["test"]
    assert facts["notes"][0].startswith(f"files {toy_csv}: 60 rows, {len(held_out)} held out to test on")
    assert facts["notes"][
        -1
    ] == f"{account['unused']} of {account['train']} training rows are named by no client and" + (" are not used")


def test_ledger_of_a_set_up_matches_its_closed_form(make_federation):
    ledger: Ledger = set_up(make_federation())
    assert ledger.mismatches() == []
