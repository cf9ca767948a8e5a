"""What the virtual clock takes for granted, and whose rounds it cannot time, is said by client, device and figure."""

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.planning.devices.clock_notes import clock_notes, link_notes
from atlas_cli.planning.devices.devices import BUILT_IN, Device

KNOWN = {"compute": "1 GFLOP/s", "uplink": "1 Mbit/s", "downlink": "1 Mbit/s", "latency": "1 ms"}


def notes(clients, devices, **changes):
    config = {
        "name": "x",
        "model": {"name": "gpt2"},
        "task_groups": {"g": {"task": "causal-lm", "data": {"files": "a.txt"}}},
        "clients": {name: {"task_group": "g", "device": device} for name, device in clients.items()},
        "devices": devices,
    }
    return clock_notes(ExperimentConfig.model_validate(config | changes))


def without(*figures):
    return {figure: text for figure, text in KNOWN.items() if figure not in figures}


def test_nothing_is_said_where_all_is_known_or_nobody_has_a_device():
    assert notes({"a": "d"}, {"d": KNOWN, "s": KNOWN}, server={"device": "s"}) == []
    assert notes({"a": None}, {}) == []
    assert notes({"a": "d"}, {"d": without("compute")}, mode="federated") == []


def test_each_figure_that_is_not_known_is_named():
    devices = {"d": KNOWN, "e": without("downlink", "uplink"), "f": without("latency"), "s": {"compute": "1 TFLOP/s"}}
    clients = {"a": "d", "b": "e", "c": "e", "d": None, "e": "f"}
    assert notes(clients, devices, server={"device": "s"}) == [
        "virtual clock: a round with client b or one of 1 more has no time: its device e has no uplink and no downlink",
        "virtual clock: a round with client d has no time: no device",
        "virtual clock: f has no latency, which counts as 0",
        "virtual clock: the server s has no latency, which counts as 0",
        "virtual clock: the server s has no uplink and no downlink: as fast there as any client (no limit)",
    ]
    assert notes({"a": "d"}, {"d": KNOWN}) == [
        "virtual clock: the server is taken to be a workstation-gpu-16gib (assumed; server.device names another)"
    ]
    no_compute = {"d": KNOWN, "s": without("compute")}
    assert notes({"a": "d"}, no_compute, server={"device": "s"}) == [
        "virtual clock: no round has a time: the server's device s has no compute"
    ]


def test_of_a_link_alone():
    assert link_notes([Device("d")], None) == ["d has no latency, which counts as 0"]
    assert link_notes(BUILT_IN.values(), BUILT_IN["laptop-8gib"]) == []
