"""Device profiles, devices from a config's texts, and the measurement of a machine."""

import dataclasses

import psutil
import pytest
import torch

from atlas_cli.errors import ConfigError
from atlas_cli.planning.devices import devices
from atlas_cli.planning.devices.devices import BUILT_IN, DEFAULT_SERVER, Device, device_of, find_device, free_memory


def test_built_in_profiles_are_complete_and_say_where_they_are_from():
    assert {name: d.memory // 2**30 for name, d in BUILT_IN.items()} == {
        "phone-2gib": 2,
        "phone-6gib": 6,
        "single-board-4gib": 4,
        "laptop-8gib": 8,
        "workstation-gpu-16gib": 16,
    }
    for name, device in BUILT_IN.items():
        assert device.name == name
        assert device.lacks("memory", "compute", "uplink", "downlink", "latency", "watts") == []
        assert device.source.endswith("order of size")
        assert device.uplink <= device.downlink
    assert DEFAULT_SERVER.compute == max(d.compute for d in BUILT_IN.values())


def test_a_device_from_a_config():
    device = device_of("phone", {"memory": "2 GiB", "compute": "20 GFLOP/s", "uplink": "10 Mbit/s", "latency": "40 ms"})
    assert (device.memory, device.compute, device.uplink, device.latency) == (2**31, 20e9, 10e6, 0.04)
    assert device.lacks("memory", "downlink", "watts") == ["downlink", "watts"]


@pytest.mark.parametrize("device", BUILT_IN.values(), ids=BUILT_IN)
def test_its_texts_make_the_same_device(device):
    again = device_of(device.name, device.texts(), device.source)
    assert again == device


@pytest.mark.parametrize(
    ("texts", "place", "words"),
    [
        ({"memory": 2}, "devices.phone.memory", "has no unit"),
        ({"memory": "-2 GiB"}, "devices.phone.memory", "above zero"),
        ({"uplink": "10 MB"}, "devices.phone.uplink", "Mbit/s"),
        ({"memroy": "2 GiB"}, "devices.phone", "did you mean memory?"),
    ],
)
def test_a_bad_figure_is_named_with_its_key(texts, place, words):
    with pytest.raises(ConfigError) as caught:
        device_of("phone", texts)
    assert caught.value.key == place
    assert words in caught.value.message


def test_configured_devices_come_before_built_in_ones():
    mine = Device("phone-2gib", memory=1)
    assert find_device("phone-2gib", {"phone-2gib": mine}) is mine
    assert find_device("phone-6gib", {"phone-2gib": mine}) is BUILT_IN["phone-6gib"]
    with pytest.raises(ConfigError, match="did you mean laptop-8gib"):
        find_device("laptop-8gb")


def test_this_machine_is_measured_with_the_threads_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    ticks = iter(range(1000))
    # a product takes 1 s by this clock: 2 n^3 FLOP
    monkeypatch.setattr(devices.time, "perf_counter", lambda: float(next(ticks)))
    device = devices.measure_this_machine(threads=3, size=64, repeats=3)
    assert device.compute == float(f"{2 * 64**3:.3g}")
    assert asked[0] == 3 and asked[-1] == torch.get_num_threads()
    assert "torch threads: 3" in device.source
    assert device.memory > 0 and device.memory % 2**20 == 0
    assert device_of("x", device.texts()).compute == device.compute


def test_the_median_is_not_moved_by_one_slow_product(monkeypatch):
    seconds = iter([9.0, 1.0, 1.0, 100.0])  # the first is not counted
    monkeypatch.setattr(devices, "_matrix_product", lambda size: next(seconds))
    assert devices.measure_this_machine(size=64, repeats=3).compute == float(f"{2 * 64**3:.3g}")


def test_free_memory_is_part_of_the_installed():
    assert 2**20 < free_memory() <= psutil.virtual_memory().total


def test_devices_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULT_SERVER.memory = 1
