"""The Python interface to devices and ranks, as its documentation shows it."""

import dataclasses

import pytest
import torch

from atlas_cli.errors import ConfigError
from atlas_cli.experiment.api.ranks_for_device import DeviceProfiler, RankAllocator
from atlas_cli.models.families import family_of
from atlas_cli.planning.devices.devices import BUILT_IN, Device
from atlas_cli.planning.memory.predict import predict_client
from atlas_cli.planning.memory.step import Step


@pytest.fixture(scope="module")
def allocator():
    return RankAllocator("gpt2", batch_size=4, max_length=64)


def peak(allocator, ranks):
    paths = {f"h.{layer}.attn.c_attn": rank for layer, rank in ranks.items()}
    features = dict.fromkeys(paths, (768, 2304))
    family = family_of("gpt2")
    return predict_client(family, allocator.hf_config, len(ranks), paths, features, Step(4, 64, fused_gelu=True)).peak


@pytest.mark.slow
def test_documented_calls(allocator):
    device = DeviceProfiler().profile("phone-2gib")
    assert device == BUILT_IN["phone-2gib"]
    ranks = allocator.allocate_ranks(device, importance=[3.0, 1.0, 2.0], n_layers=3)
    assert ranks == {0: 64, 1: 64, 2: 64}
    assert allocator.allocate_ranks("phone-2gib", {0: 3.0, 1: 1.0, 2: 2.0}, 3) == ranks


@pytest.mark.slow
def test_fits_the_memory_in_the_order_of_importance(allocator):
    least, most = peak(allocator, dict.fromkeys(range(3), 1)), peak(allocator, dict.fromkeys(range(3), 64))
    memory = least + (most - least) // 3
    ranks = allocator.allocate_ranks(Device("phone", memory=memory), [3.0, 1.0, 2.0], 3)
    assert ranks[0] > ranks[2] > ranks[1] > 1
    assert memory - 52_000 < peak(allocator, ranks) <= memory


def test_profiles_this_machine():
    threads = torch.get_num_threads()
    device = DeviceProfiler().profile()
    assert device.memory > 2**20 and device.compute > 1e6
    assert torch.get_num_threads() == threads
    assert dataclasses.asdict(device)["name"] == "this-machine"


@pytest.mark.parametrize(
    ("device", "importance", "layers", "message"),
    [
        ("phone-2gb", [1.0], 1, "did you mean phone-2gib"),
        (Device("mine"), [1.0], 1, "has no memory"),
        (Device("mine", memory=2**20), [1.0], 1, "too little"),
        ("phone-2gib", [1.0, 2.0], 3, "must be of layers 0 to 2"),
        ("phone-2gib", {1: 1.0}, 1, "must be of layers 0 to 0"),
        ("phone-2gib", [1.0] * 13, 13, "the model has 12 layers"),
    ],
)
def test_bad_input(allocator, device, importance, layers, message):
    with pytest.raises(ConfigError, match=message):
        allocator.allocate_ranks(device, importance, layers)


@pytest.mark.slow
def test_llama_in_the_published_two_bytes_a_weight_needs_half():
    allocator = RankAllocator("llama-7b", batch_size=1, max_length=32)
    importance = [1.0] * 2
    ranks = allocator.allocate_ranks(Device("laptop", memory=2**30 + 2**28), importance, 2)
    assert ranks == {0: 64, 1: 64}
    with pytest.raises(ConfigError, match="too little"):
        RankAllocator("llama-7b", batch_size=1, max_length=32, dtype="float32").allocate_ranks(
            Device("laptop", memory=2**30 + 2**28), importance, 2
        )
