"""What the audit takes a client to hold when a round begins is what it held: by activations, by hash, by update."""

import pytest
import torch
from support.slow import slow

from atlas_cli.audit.attacks import attack_of
from atlas_cli.audit.deliveries import BASE, UnknownChange
from atlas_cli.audit.evidence import Evidence
from atlas_cli.audit.figures import Inapplicable
from atlas_cli.audit.update_norms import update_norms
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.experiment import end_of_run, session
from atlas_cli.experiment.recorder import Recorder
from atlas_cli.hashing import sha256_tensors
from atlas_cli.reports.progress import progress_for
from atlas_cli.reports.terminal import Terminal
from atlas_cli.wire.messages import Activations, AdapterUpdate, Delivery

FAST = {"client_optimizer": {"lr": 0.05}, "server_optimizer": {"lr": 0.05}}
# two of three clients a round: flora adds 34 rows of a and one other, and 24 of the others; 32 are full rank
MISSED = {
    "clients": {"a": {"rank": 22}, "b": {"rank": 12}},
    "training": {"rounds": 6, "local_steps": 2, "cohort": 0.67, **FAST},
}


def record(toy, patch, rounds, **changes):
    """Train with messages recorded, and by (round, client) what each client held when its steps began."""
    began, start = {}, Recorder.start_round

    def start_round(recorder, number, present):
        start(recorder, number, present)
        for client in present:
            held = recorder.federation.aggregator.members[client].exchanged()
            began[number, client] = {name: value.clone() for name, value in held.items()}

    patch.setattr(Recorder, "start_round", start_round)
    patch.setattr(end_of_run, "write_report", lambda run, manifest: run.write_text("report.html", ""))
    config = toy(audit={"record": {"rounds": rounds}}, **changes)
    with progress_for(Terminal(quiet=True)) as progress:
        run = session.start(ExperimentConfig.model_validate(config), progress)
    return run, began


@pytest.mark.slow
@pytest.mark.parametrize("method", ["flora by int8", "scaffold", "flora", "fedex", "ffa", "rolora", "fed-plora"])
def test_is_what_clients_held_and_sent_with(toy, monkeypatch, method):
    method, _, codec = method.partition(" by ")
    wire = {"deliveries": {"codec": codec}} if codec else {}
    run, began = record(toy, monkeypatch, [2, 3, 4, 5, 6], **MISSED, aggregation={"method": method}, wire=wire)
    evidence = Evidence.of_run(run)
    kinds = [[m.kind for m in evidence.messages if m.client == c and m.type in BASE] for c in ("a", "b-1", "b-2")]
    if method == "flora":
        assert any("base-total" in each[1:] for each in kinds)  # someone had rows, and is sent T
    steps = [step for step in evidence.steps if step.number == 0]
    assert len(steps) == 2 * 5
    for step in steps:
        party = evidence.party(step.client, step.round)
        held = party.adapters.state()
        assert sha256_tensors(held) == sha256_tensors(began[step.round, step.client])
        made = party.forward(step.batch.inputs(), step.round, 0, None).activations
        seen = step.read(Activations).activations
        real = step.batch.attention_mask.bool()
        torch.testing.assert_close(made[real], seen[real], atol=2e-5, rtol=1e-4)
    assert evidence.deliveries.unknown() == ()
    for line in update_norms(evidence):
        assert not line["unknown"]
        for client, norm in line["norms"].items():
            sent = next(
                m.read(AdapterUpdate).named
                for m in evidence.messages
                if (m.round, m.client, m.type) == (line["round"], client, AdapterUpdate)
            )
            moved = torch.cat([(sent[n] - began[line["round"], client][n]).flatten().double() for n in sent])
            assert norm == pytest.approx(float(moved.norm()), rel=1e-5) and norm > 0


@pytest.mark.parametrize("method", ["zero-pad", *slow("fedsa", "fedex", "delta-svd")])
def test_changes_by_a_codec_are_added_up(toy, monkeypatch, method):
    """Clients miss rounds; only the last is asked for, and what leads to it is recorded, too."""
    wire = {"deliveries": {"codec": "int8"}, "adapters": {"codec": "int4"}}
    changes = {**MISSED, "training": {**MISSED["training"], "rounds": 4, "local_steps": 1}}
    run, began = record(toy, monkeypatch, [4], wire=wire, aggregation={"method": method}, **changes)
    evidence = Evidence.of_run(run)
    clients = {m.client for m in evidence.messages if m.round == 4 and m.type is Activations}
    assert len(clients) == 2
    for client in clients:
        held = evidence.party(client, 4).adapters.state()
        if method == "fedsa":  # B never crosses the wire
            held, began[4, client] = (
                {n: t for n, t in each.items() if "lora_A" in n} for each in (held, began[4, client])
            )
        assert sha256_tensors(held) == sha256_tensors(began[4, client])
    lost = next(m for m in evidence.messages if m.client == client and m.round in (1, 2) and m.type is Delivery)
    evidence.messages.remove(lost)
    with pytest.raises(Inapplicable, match=f"was sent in round {lost.round} was not recorded"):
        evidence.party(client, 4)


@pytest.mark.slow
def test_inverters_fall_back_to_round_1_where_changes_cannot_be_told(toy, monkeypatch):
    training = {"rounds": 2, "local_steps": 1}
    wire = {"deliveries": {"codec": "int8"}}
    run, began = record(toy, monkeypatch, [1, 2], wire=wire, aggregation={"method": "rolora"}, training=training)
    evidence = Evidence.of_run(run)
    assert sha256_tensors(evidence.party("a", 1).adapters.state()) == sha256_tensors(began[1, "a"])
    with pytest.raises(UnknownChange, match="of other parts or ranks each round"):
        evidence.party("a", 2)
    figure = attack_of("ridge-inverter").attack(evidence)
    assert "inverters of later rounds had the adapters with which round 1 began" in figure.note


@pytest.mark.slow
def test_what_was_not_recorded_is_said_and_not_left_out(toy, monkeypatch):
    run, _ = record(toy, monkeypatch, [5], **MISSED, aggregation={"method": "flora"})
    evidence = Evidence.of_run(run)
    client = next(m.client for m in evidence.messages if m.round == 5 and m.kind == "activations")
    evidence.party(client, 5)
    lost = next(m for m in evidence.messages if m.client == client and m.type in BASE and m.round < 5)
    evidence.messages.remove(lost)
    with pytest.raises(Inapplicable, match=f"that {client} was sent in round {lost.round} was not recorded"):
        evidence.party(client, 5)


@pytest.mark.slow
def test_steps_that_send_seldom_or_new_texts_alone_are_told_by_what_they_sent(toy, monkeypatch):
    """An auxiliary client sends every other step, a frozen one each text once, of 27 in three epochs."""
    kinds = {"a": {"learns": "auxiliary"}, "b": {"learns": "frozen", "rank": 0}}
    training = {"rounds": 2, "local_steps": 5, "auxiliary": {"every": 2}, "batch_size": 8}
    run, _ = record(toy, monkeypatch, [1, 2], clients=kinds, training=training, server={"rank": 1})
    evidence = Evidence.of_run(run)
    steps = [(step.client, step.round, step.number) for step in evidence.steps]
    assert [(number, step) for client, number, step in steps if client == "a"] == [
        (number, step) for number in (1, 2) for step in (0, 2, 4)
    ]
    once = [step for step in evidence.steps if step.client == "b-1"]
    texts = [tuple(feature["input_ids"]) for step in once for feature in step.batch.features]
    assert sorted(set(texts)) == sorted({tuple(f["input_ids"]) for f in evidence.federation.train_features("b-1")})
    assert len(texts) <= 27 and once[-1].round == 1
    for step in evidence.steps:
        party = evidence.party(step.client, step.round)
        made = party.forward(step.batch.inputs(), step.round, 0, None).activations
        seen = evidence.tokens(step)
        real = step.batch.attention_mask.bool()
        assert torch.equal(seen.ids, step.batch.input_ids[real])
        if (step.round, step.number) == (1, 0) or step.client != "a":  # before the first step of an adapter
            torch.testing.assert_close(made[real], seen.hidden, atol=2e-5, rtol=1e-4)
