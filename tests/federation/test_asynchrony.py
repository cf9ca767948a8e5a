"""Clients at the pace of their devices: buffered merges against the synchronous run, and what a resume restores."""

import json

import pytest
import torch

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.experiment.round_loop import deliver, set_up
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.build import build
from atlas_cli.federation.round_time import work_of_pass
from atlas_cli.federation.under_way import UnderWay
from atlas_cli.planning.devices.clock import ClientWork, LocalStep
from atlas_cli.planning.devices.devices import Device
from atlas_cli.wire.ledger import Ledger

DEVICE = {"compute": "1 GFLOP/s", "uplink": "1 Mbit/s", "downlink": "1 Mbit/s", "latency": "10 ms"}
SLOW = {"c": 3.0}
ONE = Device("one", compute=1.0, uplink=1.0, downlink=1.0)


def config_of(make_config, **changes):
    training = {"server_update": "sequential", "rounds": 4, "local_steps": 2} | changes.pop("training", {})
    return make_config(
        devices={"phone": DEVICE},
        clients={name: {"device": "phone"} for name in "abc"},
        aggregation={"method": "delta-svd"},
        training=training,
        **{"faults": {"slow": SLOW}, **changes},
    )


def after(config, train_quietly):
    federation = build(config)
    return RunState(federation).capture, train_quietly(federation)


SAME = {
    "nothing trained on the server": {"server": {"rank": 0}, "training": {"labels": "client"}},
    "a copy of the server for each client": {"training": {"server_update": "per-client", "cohort": 0.67}},
}


@pytest.mark.parametrize("case", SAME)
def test_a_buffer_of_all_that_train_is_the_synchronous_run(case, make_config, train_quietly):
    """Nothing depends on the order in which the server is asked; faults, absence and devices change nothing."""
    faults = {"slow": SLOW, "drop": 0.2, "crash_at": {"b": {"round": 2, "step": 1}}}
    common = {**SAME[case], "engine": {"fuse": "off"}, "faults": faults}
    plain, lines = after(config_of(make_config, **common), train_quietly)
    rule = {"buffer": 2 if "cohort" in SAME[case]["training"] else 3}
    asynchronous = {**common, "training": {**common["training"], "asynchrony": rule}}
    buffered, own = after(config_of(make_config, **asynchronous), train_quietly)
    one, other = plain()[0], buffered()[0]
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    same = ("round", "train_loss", "test", "bytes_up", "bytes_down", "participants", "dropped", "aggregation_error")
    assert [[line[k] for k in same] for line in lines.metrics] == [[line[k] for k in same] for line in own.metrics]


def by_hand(config, seconds, scale=1.0):
    """A federation whose clients take so many seconds for a pass, and whose server takes none."""
    federation = build(config)

    def work_of(client, number, delivered):
        steps = config.training.local_steps
        step = LocalStep(0.5 / steps, 0.5 / steps, 0, 0, 0, 0, 0)
        return ClientWork(client, "g", ONE, [step] * steps, 0, 0, 0, 0, slowdown=scale * seconds[client])

    federation.under_way = UnderWay(config, federation.aggregator, work_of)
    return federation


def two(make_config, **rule):
    """Clients a and b, each with its updates merged as they come."""
    given = config_of(make_config, training={"rounds": 9, "asynchrony": {"buffer": 1, **rule}}).model_dump()
    del given["clients"]["c"], given["faults"]
    return ExperimentConfig.model_validate(given)


def test_staleness_of_two_clients_of_periods_one_and_three(make_config, train_quietly):
    """a comes at 1, 2, 3 (before b, by the order of the config), and so on; b has missed three merges each time."""
    lines = train_quietly(by_hand(two(make_config), {"a": 1, "b": 3})).metrics[1:]
    staleness = [{"a": 0}, {"a": 0}, {"a": 0}, {"b": 3}, {"a": 1}, {"a": 0}, {"a": 0}, {"b": 3}, {"a": 1}]
    assert [line["staleness"] for line in lines] == staleness
    assert [line["simulated_seconds"] for line in lines] == [1, 1, 1, 0, 1, 1, 1, 0, 1]


def test_twice_the_times_change_only_times(make_config, train_quietly):
    def run(scale):
        federation = by_hand(two(make_config), {"a": 1, "b": 3}, scale)
        lines = train_quietly(federation).metrics[1:]
        return RunState(federation).capture()[0], [line.pop("simulated_seconds") for line in lines], lines

    (state, seconds, lines), (other, doubled, others) = run(1.0), run(2.0)
    assert doubled == [2 * each for each in seconds]
    assert all(torch.equal(state[name], other[name]) for name in state)
    timed = ("seconds", "samples_per_second")
    assert [{k: v for k, v in line.items() if k not in timed} for line in lines] == [
        {k: v for k, v in line.items() if k not in timed} for line in others
    ]


def test_updates_that_are_too_stale_are_dropped_and_counted(make_config, train_quietly):
    recorder = train_quietly(by_hand(two(make_config, max_staleness=2), {"a": 1, "b": 3}))
    lines = recorder.metrics[1:]
    assert [line["participants"] for line in lines] == [["a"]] * 9
    why = "staleness 3 is more than 2"
    # b is dropped at 3, starts anew at 4 with the merge of a's update, and comes again at 7; of its third pass, which
    # begins at 8, the first of two steps has reached the server at 9
    assert [line["dropped"] for line in lines[:8]] == [{}, {}, {}, {"b": why}, {}, {}, {}, {"b": why}]
    assert lines[8]["dropped"] == {"b": "under way, after 1 of 2 steps"}
    assert all(c["held_sha256"] == c["delivered_sha256"] for c in recorder.clients if c["round"] == 9)


@pytest.mark.parametrize("stopped", [1, 4])
def test_a_run_that_goes_on_with_clients_under_way_is_the_run_that_never_stopped(stopped, make_config, train_quietly):
    training = {"rounds": 5, "labels": "client", "asynchrony": {"buffer": 2}}
    config = config_of(make_config, training=training, faults={"slow": {"b": 2.2, "c": 7.0}})
    saved = {}

    def keep(number):
        if number == stopped:
            tensors, values = state.capture()
            saved.update(tensors=tensors, values=json.loads(json.dumps(values)))

    federation = build(config)
    state = RunState(federation)
    whole = train_quietly(federation, checkpoint=keep)
    assert saved["values"]["under_way"]["passes"], "nobody is under way"
    again = build(config)
    other = RunState(again)
    other.restore(saved["tensors"], saved["values"])
    rest = train_quietly(again, done=stopped)
    one, two = state.capture(), other.capture()
    assert one[0].keys() == two[0].keys() and all(torch.equal(one[0][name], two[0][name]) for name in one[0])
    timed = ("seconds", "samples_per_second")
    strip = lambda lines: [{k: v for k, v in line.items() if k not in timed} for line in lines]  # noqa: E731
    assert strip(whole.metrics[stopped + 1 :]) == strip(rest.metrics)
    assert max(s for line in whole.metrics[1:] for s in line["staleness"].values()) > 1


@pytest.mark.parametrize("exponent", [0.5, 0.0])
def test_a_late_update_adds_what_its_client_changed(exponent, make_config):
    """The group's adapter, truncated, and heads, against sums of dense float64 matrices; clients have three ranks."""
    config = config_of(make_config, training={"labels": "client", "asynchrony": {"buffer": 2}})
    rule = config.training.asynchrony.model_copy(update={"staleness_exponent": exponent})
    federation = build(config)
    aggregator, ledger = federation.aggregator, Ledger()
    aggregator.earlier.rule = rule
    set_up(federation)
    group, draw = aggregator.groups["g"], torch.Generator().manual_seed(0)

    def change(client):
        """Train, as if: what dW and the head become."""
        with torch.no_grad():
            for parameter in federation.clients[client].trained():
                parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
        return held(client)

    def held(client):
        member = aggregator.members[client]
        adapters = {
            path: (a.scaling * a.lora_B.double() @ a.lora_A.double()) for path, a in member.adapters.adapters.items()
        }
        return {path: dense.detach() for path, dense in adapters.items()}, {
            n: t.double() for n, t in member.head_state().items()
        }

    def whole():
        return {path: f.B.double() @ f.A.double() for path, f in group.merged.items()}

    began = held("c")
    for client in "ab":
        change(client)
    aggregator.merge("g", ["a", "b"], ledger, 1)
    deliver(federation, ["a"], ledger)
    fresh = held("a")
    before, head = whole(), {name: t.double() for name, t in aggregator.head_of("a").items()}
    after = {client: change(client) for client in "ac"}
    assert aggregator.earlier.staleness("c") == 1
    aggregator.merge("g", ["a", "c"], ledger, 2)
    weights = {c: aggregator.members[c].weight for c in "ac"}
    a, c = (weights[client] / sum(weights.values()) for client in "ac")
    c *= 2**-exponent
    for path, merged in whole().items():
        target = before[path] + a * (after["a"][0][path] - fresh[0][path]) + c * (after["c"][0][path] - began[0][path])
        U, S, Vh = torch.linalg.svd(target)
        rank = group.merged[path].rank
        torch.testing.assert_close(merged, U[:, :rank] * S[:rank] @ Vh[:rank], atol=1e-6, rtol=1e-4)
    for name, merged in aggregator.head_of("a").items():
        target = head[name] + a * (after["a"][1][name] - fresh[1][name]) + c * (after["c"][1][name] - began[1][name])
        torch.testing.assert_close(merged.double(), target, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("labels", ["server", "client"])
def test_the_clock_knows_every_byte_before_it_is_sent(labels, make_config, train_quietly):
    """In a round of all clients, the messages of their passes are those of the ledger; the set-up's are not timed."""
    training = {"rounds": 2, "labels": labels, "asynchrony": {"buffer": 3}}
    federation = build(config_of(make_config, training=training))
    lines = [line for line in train_quietly(federation).clients if line["round"] == 2]
    for line in lines:
        work = work_of_pass(federation, line["client"], 2, delivered=True)
        steps = work.steps
        assert line["bytes_up"] == sum(step.bytes_up for step in steps) + work.adapter_bytes_up
        assert line["bytes_down"] == sum(step.bytes_down for step in steps) + work.adapter_bytes_down
