"""Rounds of clients whose links and presence change over virtual time."""

import json

import pytest
import torch

from atlas_cli.errors import ConfigError
from atlas_cli.experiment.manifest_facts import data_facts, model_facts
from atlas_cli.experiment.run_inputs import changed_since, inputs
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.build import build
from atlas_cli.planning.devices.devices import server_device
from atlas_cli.planning.plan import make_plan
from atlas_cli.runs.manifest import start_manifest

PHONE = {"compute": "1 GFLOP/s", "uplink": "1 Mbit/s", "downlink": "1 Mbit/s", "latency": "10 ms"}


@pytest.fixture
def traced(tmp_path, make_config):
    """A config of a client whose uplink changes, one that is away for half of each second, and one like neither."""
    (tmp_path / "up.csv").write_text("seconds,kbit/s\n0,1000\n0.05,0\n0.1,200\n", encoding="utf-8")
    (tmp_path / "there.csv").write_text("seconds,available\n0,0\n0.5,1\n", encoding="utf-8")
    link = {"trace": str(tmp_path / "up.csv"), "repeat_every": "300 ms"}
    there = {"trace": str(tmp_path / "there.csv"), "repeat_every": "1 s"}
    devices = {"bus": {**PHONE, "uplink": link}, "night": {**PHONE, "available": there}, "desk": PHONE}

    def make(**changes):
        training = {"rounds": 4, "local_steps": 2, **changes.pop("training", {})}
        clients = {name: {"device": device} for name, device in zip("abc", devices, strict=True)}
        return make_config(devices=devices, training=training, **{"clients": clients, **changes})

    return make


@pytest.mark.slow
def test_a_client_that_is_away_has_no_part_in_a_round_and_enough_are_waited_for(traced, train_quietly):
    lines = train_quietly(build(traced())).metrics[1:]
    began = 0.0
    for line in lines:
        away = began % 1 < 0.5
        assert line["dropped"] == ({"b": f"cannot be reached at {began:.6g} s"} if away else {})
        began += line["simulated_seconds"]
    assert {bool(line["dropped"]) for line in lines} == {True, False}
    recorder = train_quietly(build(traced(training={"rounds": 1, "min_clients": 3})))
    (line,) = recorder.metrics[1:]
    assert line["dropped"] == {} and line["simulated_seconds"] > 0.5
    for client in recorder.clients:
        if client["round"] == 1:
            parts = client["simulated"]
            assert parts["wait"] >= 0.5 and parts["finished"] > 0.5
            whole = sum(parts[each] for each in ("compute", "upload", "server", "download", "wait"))
            assert whole == pytest.approx(line["simulated_seconds"])


WAYS = {
    "rounds with a deadline": {"training": {"deadline": "500 ms"}, "faults": {"drop": 0.1}},
    "clients that wait for nobody": {
        "training": {"server_update": "sequential", "asynchrony": {"buffer": 1}},
        "aggregation": {"method": "delta-svd"},
    },
}


def stored(federation):
    tensors, values = RunState(federation).capture()
    for client in values.get("under_way", {}).get("passes", {}).values():
        client["did"]["seconds"] = 0.0  # of this machine
    return tensors, json.loads(json.dumps(values))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_run_reads_traces_where_an_unbroken_one_does(way, traced, train_quietly):
    config = traced(**WAYS[way])
    unbroken, kept = build(config), {}
    whole = train_quietly(unbroken, checkpoint=lambda n: kept.update({n: stored(unbroken)}))
    resumed = build(config)
    RunState(resumed).restore(*kept[2])
    if resumed.under_way is None:
        assert resumed.clock.now == sum(line["simulated_seconds"] for line in whole.metrics[1:3])
    else:
        assert any(each.took is not None for each in resumed.under_way.passes.values())
    rest = train_quietly(resumed, done=2)

    def compared(lines):
        timed = ("seconds", "samples_per_second")
        return [{k: v for k, v in line.items() if k not in timed} for line in lines if line["round"] > 2]

    assert compared(rest.metrics) == compared(whole.metrics)
    assert [line["simulated"] for line in rest.clients] == [c["simulated"] for c in whole.clients if c["round"] > 2]
    tensors, values = stored(resumed)
    assert values == kept[4][1] and all(torch.equal(tensors[name], kept[4][0][name]) for name in kept[4][0])


def test_a_deadline_counts_what_a_client_takes_at_that_time(traced, train_quietly):
    """What is cut off is what takes longer by itself than the deadline, in the round that the trace is slow in."""
    free = train_quietly(build(traced()))
    own = {
        (line["round"], line["client"]): sum(line["simulated"][part] for part in ("compute", "upload", "download"))
        for line in free.clients
        if line["simulated"]
    }
    first = {client: seconds for (number, client), seconds in own.items() if number == 1}
    assert first["a"] > 1.5 * first["c"]  # of equal devices but for the link
    limit = (first["a"] + first["c"]) / 2
    (line,) = train_quietly(build(traced(training={"rounds": 1, "deadline": f"{limit} s"}))).metrics[1:]
    assert line["dropped"].keys() == {"a", "b"} and "deadline of" in line["dropped"]["a"]


def test_what_traces_do_not_go_with(traced):
    with pytest.raises(
        ConfigError, match=r"devices.bus: has a trace.* client b has no time; give this client a device"
    ):
        make_plan(traced(clients={"a": {"device": "bus"}}))
    with pytest.raises(ConfigError, match=r"server.device: night has a trace, and the server's links do not change"):
        make_plan(traced(server={"device": "night"}))
    with pytest.raises(ConfigError, match=r"server.device: night has a trace"):
        make_plan(traced(server={"device": "night"}, clients={name: {"device": "desk"} for name in "abc"}))


def test_a_run_does_not_go_on_with_another_trace(traced, tmp_path):
    federation = build(traced())
    manifest = start_manifest({}, [], 0, "cpu", 1, model=model_facts(federation), data=data_facts(federation))
    manifest = json.loads(json.dumps({**manifest, "inputs": inputs(federation)}))
    assert changed_since(manifest, federation) is None
    with (tmp_path / "up.csv").open("a", encoding="utf-8") as file:
        file.write("0.2,300\n")
    assert "a trace of a device is not what it was: bus.uplink was " in changed_since(manifest, federation)


@pytest.mark.slow
def test_clients_that_wait_for_nobody_have_their_links_by_the_time_of_the_run(traced, train_quietly):
    """A wait for a client that is alone, and transfers at the times at which they happen, to the last digit or so."""
    changes = WAYS["clients that wait for nobody"]
    federation = build(traced(**changes, clients={name: {"device": "night"} for name in "abc"}))
    lines = train_quietly(federation)
    assert lines.metrics[1]["dropped"] == {} and lines.metrics[1]["simulated_seconds"] > 0.5
    federation = build(traced(**changes))
    under_way, sent = federation.under_way, []
    send = under_way._arrivals._send

    def watched(ready, place, client, step):
        send(ready, place, client, step)
        sent.append((client, step, ready, under_way._works[client], under_way._arrivals.waiting()))

    under_way._arrivals._send = watched
    train_quietly(federation)
    link = federation.devices["a"].traces.uplink
    server = server_device(federation.config)
    for client, step, ready, work, waiting in sent:
        (at,) = [arrival.at for arrival in waiting if arrival.client == client]
        size, messages, begun = work.adapter_bytes_up, work.adapter_messages_up, ready
        if step < len(work.steps):
            size, messages = work.steps[step].bytes_up, work.steps[step].messages_up
            begun += work.forward(work.steps[step])
        if client == "a":
            took = link.seconds(begun, 8 * size) + messages * (0.01 + server.latency)
            assert at == pytest.approx(begun + took, rel=1e-12)
    assert {client for client, *_ in sent} == set("abc")
