"""Updates that cannot be right are left out of the merge, named with their reason."""

import pytest
import torch

from atlas_cli.errors import ConfigError, NonFiniteError
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.build import build
from atlas_cli.federation.merging.screening import change_norm
from atlas_cli.planning.plan import make_plan

Q = "encoder.layer.0.attention.self.query"
FAST = {"client_optimizer": {"lr": 0.02}, "server_optimizer": {"lr": 0.02}}


def tampered(make_config, monkeypatch, train_quietly, tamper, rounds=2, **changes):
    """Two rounds in which what b sends in the last one went through ``tamper(tensors)``."""
    training = {**FAST, "rounds": rounds, **changes.pop("training", {})}
    made = build(make_config(training=training, **changes))
    receive, count = made.aggregator.receive, iter(range(1, 99))

    def received(client, ledger):
        sent = receive(client, ledger)
        if client == "b" and next(count) == rounds:
            sent = {name: tensor.clone() for name, tensor in sent.items()}
            tamper(sent)
        return sent

    monkeypatch.setattr(made.aggregator, "receive", received)
    return made, train_quietly(made)


def drop_name(sent):
    del sent[f"{Q}.lora_B"]


def add_name(sent):
    sent["encoder.layer.9.lora_A"] = torch.zeros(2, 2)


def lower_rank(sent):
    sent[f"{Q}.lora_A"] = sent[f"{Q}.lora_A"][:1]


def not_a_number(sent):
    sent[f"{Q}.lora_B"][3, 1] = torch.nan


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (drop_name, f"sent {Q}.lora_B of shape none, delivered: (32, 2)"),
        (add_name, "sent encoder.layer.9.lora_A of shape (2, 2), delivered: none"),
        (lower_rank, f"sent {Q}.lora_A of shape (1, 32), delivered: (2, 32)"),
        (not_a_number, f"update of client b, {Q}.lora_B, round 2 is not finite"),
    ],
)
def test_what_is_not_what_was_delivered_is_left_out(make_config, monkeypatch, train_quietly, tamper, says):
    made, recorder = tampered(make_config, monkeypatch, train_quietly, tamper, training={"on_nonfinite": "drop-client"})
    assert recorder.metrics[2]["dropped"] == {"b": says} and recorder.metrics[2]["participants"] == ["a", "c"]
    assert [c["participated"] for c in recorder.clients if c["round"] == 2] == [True, False, True]
    assert made.aggregator.members["b"].version == 2  # it is still there, so it gets the merge of the others


def test_an_update_that_is_not_finite_stops_the_run_by_default(make_config, monkeypatch, train_quietly):
    with pytest.raises(NonFiniteError, match=rf"update of client b, {Q}.lora_B, round 2 is not finite"):
        tampered(make_config, monkeypatch, train_quietly, not_a_number)


@pytest.mark.slow
def test_the_head_that_a_client_trains_is_looked_at_too(make_config, monkeypatch, train_quietly):
    def tamper(sent):
        next(tensor for name, tensor in sent.items() if name.startswith("head.")).fill_(torch.inf)

    with pytest.raises(NonFiniteError, match=r"update of client b, head\..*, round 2"):
        tampered(make_config, monkeypatch, train_quietly, tamper, training={"labels": "client"})


@pytest.mark.slow
@pytest.mark.parametrize("method", ["zero-pad", "delta-svd", "flora", "ffa"])
def test_an_update_a_hundred_times_the_median_is_left_out(make_config, monkeypatch, train_quietly, method):
    """The merge is that of a and c alone: the same as if the client had been malformed."""

    def scale(sent):
        for name in sent:
            if name.endswith("lora_B"):
                sent[name] *= 1000

    changes = {"aggregation": {"method": method}, "screen": {"max_norm_ratio": 3.0}}
    made, recorder = tampered(make_config, monkeypatch, train_quietly, scale, **changes)
    assert list(recorder.metrics[2]["dropped"]) == ["b"]
    assert recorder.metrics[2]["dropped"]["b"].startswith("update of norm ")
    other, _ = tampered(make_config, monkeypatch, train_quietly, drop_last, **changes)
    one, two = RunState(made).capture()[0], RunState(other).capture()[0]
    assert all(torch.equal(one[name], two[name]) for name in one)


def drop_last(sent):
    del sent[max(sent)]


def test_the_norm_is_that_of_the_dense_change():
    from atlas_cli.aggregation.contract import Factors

    def factors(rank):
        return Factors(torch.randn(rank, 12, dtype=torch.float64), torch.randn(9, rank, dtype=torch.float64))

    after, before = {"q": factors(3), "v": factors(2)}, {"q": factors(4), "v": factors(2)}
    dense = torch.cat([(after[p].B @ after[p].A - before[p].B @ before[p].A).flatten() for p in after])
    assert change_norm(after, before) == pytest.approx(float(dense.norm()))
    assert change_norm(after, after) == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_a_client_whose_weight_is_nothing_is_left_out(make_config, train_quietly):
    made = build(make_config(training=FAST))
    made.aggregator.members["c"].weight = 0.0
    recorder = train_quietly(made)
    assert recorder.metrics[1]["dropped"] == {"c": "weight 0 in the merge"}


def test_an_aggregate_that_is_not_finite_is_not_delivered(make_config, monkeypatch, train_quietly):
    made = build(make_config(training=FAST))
    aggregate = made.aggregator.method.aggregate

    def broken(*args):
        merge = aggregate(*args)
        merge.adapters[Q].B[0, 0] = torch.inf
        return merge

    monkeypatch.setattr(made.aggregator.method, "aggregate", broken)
    with pytest.raises(NonFiniteError, match=rf"merged adapter of g, {Q}.lora_B, round 1 is not finite"):
        train_quietly(made)
    assert made.aggregator.groups["g"].version == 0


@pytest.mark.parametrize("changes", [{"aggregation": {"method": "fedsa"}}, {"mode": "local-only"}])
def test_norms_are_not_screened_where_no_update_is_sent(make_config, changes):
    with pytest.raises(ConfigError, match="no client sends an update that has a norm") as error:
        make_plan(make_config(**changes, screen={"max_norm_ratio": 3.0}))
    assert error.value.key == "screen.max_norm_ratio"
