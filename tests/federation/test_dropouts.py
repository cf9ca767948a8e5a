"""Clients that leave a round: what they did in it counts for nothing, and the others go on as if they had not been."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.by_hand import ByHand, optimizer, step, trained

from atlas_cli.aggregation.contract import delta
from atlas_cli.engines.in_process import local_steps
from atlas_cli.errors import NonFiniteError, TooFewClientsError
from atlas_cli.experiment.end_of_run import missed_crashes
from atlas_cli.experiment.round_loop import set_up
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation import federation as parties
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.build import build
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.federation.parties.split_server import SplitServer
from atlas_cli.planning.cohort import answers, sample_cohort
from atlas_cli.wire.ledger import Ledger

FAST = {"client_optimizer": {"lr": 0.02}, "server_optimizer": {"lr": 0.02}}
DEVICE = {"compute": "1 GFLOP/s", "uplink": "1 Mbit/s", "downlink": "1 Mbit/s"}


def after(make_config, train_quietly, **changes):
    changes["training"] = {**FAST, **changes.get("training", {})}
    made = build(make_config(**changes))
    recorder = train_quietly(made)
    return RunState(made).capture()[0], recorder


def same(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def versions(federation):
    return {name: group.version for name, group in federation.aggregator.groups.items()}


@pytest.mark.slow
def test_a_third_drops_out_each_round_and_merges_are_of_those_that_are_left(make_config, train_quietly, monkeypatch):
    made = build(
        make_config(
            clients={name: {"task_group": "g", "rank": 3} for name in "de"},
            faults={"drop": 0.3},
            training={**FAST, "rounds": 20, "local_steps": 2},
        )
    )
    aggregator, merges = made.aggregator, []
    combine = aggregator.combine

    def watched(group, sent, number):
        sent = {client: copy.deepcopy(tensors) for client, tensors in sent.items()}
        result = combine(group, sent, number)
        merges.append((sent, {path: copy.deepcopy(f) for path, f in aggregator.groups[group].merged.items()}))
        return result

    monkeypatch.setattr(aggregator, "combine", watched)
    recorder = train_quietly(made)
    lines = [line for line in recorder.metrics if line["round"]]
    assert len(lines) == len(merges) == 20
    missing = sum(len(line["dropped"]) for line in lines)
    assert 15 <= missing <= 45  # 30 of 100 expected
    for line, (sent, merged) in zip(lines, merges, strict=True):
        assert list(sent) == line["participants"]
        assert sorted([*line["participants"], *line["dropped"]]) == list("abcde")
        assert set(line["dropped"].values()) <= {"never answered"}
        weights = {c: aggregator.members[c].weight for c in sent}
        shares = {c: w / sum(weights.values()) for c, w in weights.items()}
        recorded = {c["client"]: c["weight"] for c in recorder.clients if c["round"] == line["round"]}
        assert {c: w for c, w in recorded.items() if w is not None} == pytest.approx(shares)
        for path, found in merged.items():  # zero-pad: factors padded to the largest rank, averaged apart
            A = B = 0
            for client, share in shares.items():
                rank = sent[client][f"{path}.lora_A"].shape[0]
                pad = torch.nn.functional.pad
                scale = aggregator.members[client].adapters.adapters[path].scaling
                A = A + share * pad(sent[client][f"{path}.lora_A"], (0, 0, 0, 4 - rank))
                B = B + share * scale * pad(sent[client][f"{path}.lora_B"], (0, 4 - rank))
            torch.testing.assert_close(delta(found), B @ A, atol=1e-6, rtol=1e-5)
    first, last = (sum(line["train_loss"] for line in part) / 5 for part in (lines[:5], lines[-5:]))
    assert last < 0.9 * first


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"aggregation": {"method": "delta-svd"}},
        {"aggregation": {"method": "median"}, "training": {"labels": "client"}},
        {"aggregation": {"method": "fedsa"}},
        {"aggregation": {"method": "flora"}},
        {"aggregation": {"method": "none"}},
        {"aggregation": {"method": "hetlora", "options": {"prune": 0.5, "penalty": 1.0}}, "mode": "federated"},
        {"training": {"client_optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}}},
    ],
    ids=str,
)
def test_a_crash_in_a_round_equals_a_round_without_the_client(make_config, train_quietly, monkeypatch, changes):
    """Every tensor of the run, b's own after it came back among them; the server has nothing that clients share."""
    rounds = {"rounds": 3, "server_update": "per-client", **changes.get("training", {})}
    crash = {"faults": {"crash_at": {"b": {"round": 2, "step": 1}}}}
    crashed, recorder = after(make_config, train_quietly, **{**changes, **crash, "training": rounds})
    assert [line["dropped"] for line in recorder.metrics] == [{}, {}, {"b": "failed before step 1"}, {}]

    def absent(plan, number, busy=(), frozen=()):
        return [c for c in sample_cohort(plan, number, busy) if (c, number) != ("b", 2)]

    monkeypatch.setattr(parties, "sample_cohort", absent)
    same(crashed, after(make_config, train_quietly, **{**changes, "training": rounds})[0])


def test_a_crash_that_meets_nobody_is_told_at_the_end(make_federation):
    made = make_federation(faults={"crash_at": {"c": {"round": 1, "step": 1}}})
    assert missed_crashes(made, [{"dropped": {"c": "failed before step 1"}}]) is None
    assert missed_crashes(made, [{"dropped": {"c": "never answered"}}]).startswith("faults.crash_at met nobody of c: ")


@pytest.mark.slow
def test_a_crash_with_a_pooled_server_by_hand(make_config):
    """c's gradients are in the server's first step, which stays, and in no other."""
    made = build(make_config(faults={"crash_at": {"c": {"round": 1, "step": 1}}}, training=FAST))
    set_up(made)
    before, hand = copy.deepcopy(made.clients["c"].adapters.state()), ByHand(made)
    attendance = Attendance(made, ["a", "b", "c"], 1)
    attendance.begin()
    local_steps(made, attendance, Ledger(), lambda *_: None)
    server = trained(hand.head, hand.upper)
    stepper = optimizer(server, hand.config.server_optimizer)
    for i, present in enumerate(("abc", "ab", "ab")):
        found = {client: hand.loss(client, i, hand.head, hand.upper) for client in present}
        together = sum(loss * count for loss, count in found.values()) / sum(count for _, count in found.values())
        gradients = torch.autograd.grad(together, server, retain_graph=True)
        for client, (loss, _) in found.items():
            hand.step_client(client, loss)
        step(stepper, server, gradients, hand.config.max_grad_norm)
    for found, expected in zip(made.server.groups["g"].parameters(), server, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    for client in "ab":
        mine, theirs = made.clients[client].adapters.parameters(), hand.adapters[client].parameters()
        for found, expected in zip(mine, theirs, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in made.clients["c"].adapters.state().items())


def spoil(monkeypatch, where, client="b", number=2, at=1):
    """A value that is not a number on the path of one client, in one step of one round."""
    now = {"when": None}
    begin_step, send, answer = SplitClient.begin_step, SplitClient.send, SplitServer.answer
    optimizer_step = SplitClient.step

    def due(name):
        return name == client and now["when"] == (number, at)

    def noted_begin_step(self, round_number, step):
        now["when"] = (round_number, step)
        begin_step(self, round_number, step)

    def spoilt_send(self, activations, mask, labels):
        message = send(self, activations, mask, labels)
        if where == "activations" and due(self.name):
            message = replace(message, activations=message.activations * torch.nan)
        return message

    def spoilt_answer(self, message):
        reply, loss = answer(self, message)
        if where == "gradient sent" and due(message.client):
            reply = replace(reply, gradients=reply.gradients * torch.inf)
        return reply, loss

    def spoilt_step(self, *rate):
        if where == "own gradient" and due(self.name):
            next(iter(self.adapters.adapters.values())).lora_B.grad[0, 0] = torch.nan
        optimizer_step(self, *rate)

    monkeypatch.setattr(SplitClient, "begin_step", noted_begin_step)
    monkeypatch.setattr(SplitClient, "send", spoilt_send)
    monkeypatch.setattr(SplitServer, "answer", spoilt_answer)
    monkeypatch.setattr(SplitClient, "step", spoilt_step)


QUERY = "encoder.layer.0.attention.self.query"
SAYS = {
    "activations": "activation sent by client b, round 2, step 1 is not finite",
    "gradient sent": "gradient sent to client b, round 2, step 1 is not finite",
    "own gradient": f"gradient norm of client b, round 2, step 1, in {QUERY}.lora_B, is not finite",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("update", "where"),
    [
        ("pooled", "activations"),
        ("per-client", "own gradient"),
        *(("pooled", where) for where in SAYS if where != "activations"),
        ("sequential", "gradient sent"),
    ],
)
def test_a_client_with_a_nan_is_dropped_as_if_it_had_failed_before_that_step(
    make_config, train_quietly, monkeypatch, where, update
):
    """The server's gradient of that step is not used either, though it was finite and had been computed."""
    rounds = {"rounds": 3, "server_update": update, "on_nonfinite": "drop-client"}
    crash = {"crash_at": {"b": {"round": 2, "step": 1}}}
    crashed, _ = after(make_config, train_quietly, training=rounds, faults=crash)
    with monkeypatch.context() as patch:
        spoil(patch, where)
        dropped, recorder = after(make_config, train_quietly, training=rounds)
    assert recorder.metrics[2]["dropped"] == {"b": SAYS[where]}
    same(dropped, crashed)


def test_a_nan_stops_the_run_by_default(make_config, train_quietly, monkeypatch):
    spoil(monkeypatch, "own gradient")
    with pytest.raises(NonFiniteError, match=SAYS["own gradient"]):
        after(make_config, train_quietly)


def late(make_config, train_quietly, deadline, slow=1.0, **changes):
    return after(
        make_config,
        train_quietly,
        devices={"phone": DEVICE},
        clients={name: {"device": "phone"} for name in "abc"},
        faults={"slow": {"b": slow}},
        training={"rounds": 1, "deadline": deadline, "server_update": "per-client"},
        **changes,
    )


@pytest.mark.slow
def test_a_slow_client_is_dropped_at_the_step_that_the_deadline_comes_in(make_config, train_quietly):
    _, free = late(make_config, train_quietly, "1000 s")
    assert free.metrics[1]["dropped"] == {}
    time = free.clients[4]["simulated"]  # of b, in round 1
    own = time["compute"] + time["upload"] + time["download"]
    held, recorder = late(make_config, train_quietly, f"{3 * own} s", slow=6.0)
    line = recorder.metrics[1]
    assert list(line["dropped"]) == ["b"] and line["participants"] == ["a", "c"]
    assert line["dropped"]["b"].startswith(f"deadline of {3 * own} s passed in step ")
    assert line["simulated_seconds"] >= 3 * own > free.metrics[1]["simulated_seconds"]
    b = next(c for c in recorder.clients if c["round"] == 1 and c["client"] == "b")
    assert not b["participated"] and b["weight"] is None and 0 < b["steps"] <= 3
    assert b["bytes_up"] > 0  # they crossed the wire
    other, _ = late(make_config, train_quietly, "1000 s", slow=1.0)
    assert any(not torch.equal(held[name], other[name]) for name in held if name.startswith("aggregator/merged/"))


@pytest.mark.slow
def test_the_slow_factor_is_on_computing_and_links_alone(make_config, train_quietly):
    (_, one), (_, other) = (late(make_config, train_quietly, "1000 s", slow=slow) for slow in (1.0, 2.5))
    fast, slow = (r.clients[4]["simulated"] for r in (one, other))
    for part in ("compute", "upload", "download"):
        assert slow[part] == pytest.approx(2.5 * fast[part])
    assert slow["server"] == fast["server"]


def test_too_few_clients_end_the_run_before_anything_is_merged(make_config, train_quietly):
    crash = {"b": {"round": 2}, "c": {"round": 2, "step": 2}}
    made = build(make_config(faults={"crash_at": crash}, training={**FAST, "rounds": 3, "min_clients": 2}))
    with pytest.raises(TooFewClientsError) as error:
        train_quietly(made)
    assert "round 2: 1 of 3 clients left, and training.min_clients is 2" in str(error.value)
    assert "c: failed before step 2" in str(error.value)
    assert "add training.min_clients=1 to go on" in str(error.value)
    assert versions(made) == {"g": 1}


def test_a_group_that_nobody_is_left_of_keeps_its_adapter(make_config, toy_csv, train_quietly):
    group = {"task": "sequence-classification", "data": {"files": toy_csv}}
    made = build(
        make_config(
            task_groups={"g": group, "h": group},
            clients={"c": {"task_group": "h"}},
            faults={"crash_at": {"c": {"round": 2}}},
            aggregation={"method": "delta-svd", "cross_group": {"strength": 0.5, "graph": "laplacian"}},
            training={**FAST, "rounds": 2},
        )
    )
    recorder = train_quietly(made)  # what is held and delivered is checked every round
    assert versions(made) == {"g": 2, "h": 1}
    g, h = recorder.metrics[-2:]
    assert (g["participants"], h["participants"], h["dropped"]) == (["a", "b"], [], {"c": "failed before step 0"})
    assert h["train_loss"] is None and h["aggregation_error"] is None and h["test"] == recorder.metrics[3]["test"]


@pytest.mark.slow
@given(st.integers(0, 99), st.floats(0.05, 0.95))
@settings(max_examples=10, deadline=None)
def test_who_never_answers_is_a_function_of_seed_round_and_client(seed, chance):
    class Config:
        def __init__(self, **changes):
            self.seed = seed
            self.faults = type("F", (), {"drop": chance, **changes})()

    drawn = [answers(Config(), "a", number) for number in range(1, 401)]
    assert drawn == [answers(Config(), "a", number) for number in range(1, 401)]
    assert drawn != [answers(Config(), "b", number) for number in range(1, 401)]
    assert abs(drawn.count(False) / 400 - chance) < 0.12
    assert all(answers(Config(drop=0.0), "a", number) for number in range(1, 9))
    more = [answers(Config(drop=min(0.99, chance + 0.04)), "a", number) for number in range(1, 401)]
    assert not any(later and not before for before, later in zip(drawn, more, strict=True))
