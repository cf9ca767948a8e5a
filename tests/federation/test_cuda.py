"""A run on a GPU trains what it trains on a CPU, with every option that is about speed, precision or memory there.

Each case runs on the CPU, too, so that it is known to work where there is no GPU: there it must train what a run
without the option trains, and nearly so where the option rounds.
"""

from functools import partial

import pytest
import torch
from support.devices import GPU

from atlas_cli.federation import loaded_experiment
from atlas_cli.models.frozen.compile_blocks import compile_blocks

SGD = {"name": "sgd", "lr": 0.1}  # Adam makes a rounding error of a gradient near 0 as large as a step
PLAIN = {"training": {"client_optimizer": SGD, "server_optimizer": SGD}}
UPPER = {name: {"rank": {1: 2}} for name in "abc"}
MEMORY, FILES = "1 MiB", "1 KiB"  # where the prefix cache keeps what it has
# what the option changes, and what else a run with and one without it have in common
EXACT = {
    "fused passes": ({}, {}),
    "one client after another": ({"engine": {"fuse": "off"}}, {}),
    "prefix cache": ({"engine": {"prefix_cache": MEMORY}}, {"clients": UPPER}),
    "pinned": ({"engine": {"prefix_cache": FILES, "pinned": True}}, {"clients": UPPER}),
    "compile": ({"engine": {"compile": True}}, {}),
    "cuda graphs": ({"engine": {"cuda_graphs": True}}, {}),
    "rows of the embedding": ({"clients": {name: {"embedding": "rows"} for name in "abc"}}, {}),
}
ROUNDED = {  # and how far from a run without it, as a share of all that was trained
    "autocast": ({"training": {"autocast": "bfloat16"}}, 0.2),
    "bfloat16": ({"model": {"dtype": "bfloat16"}}, 0.2),
    "nf4": ({"model": {"quantization": "nf4"}}, 0.6),
    "int8": ({"model": {"quantization": "int8"}}, 0.2),
}
ON_THE_GPU = {"autocast": 0.1, "bfloat16": 0.1}  # from the same on the CPU; of others ROUNDING
ROUNDING = 1e-3


@pytest.fixture
def trained(make_federation, train_quietly, tmp_path, monkeypatch):
    """``trained(device, *changes)``: the adapters of client a after two rounds, on that device."""

    def run(device, *changes):
        if device == "cpu":  # what a C++ compiler makes of the same graphs is in tests/models/test_compile_blocks.py
            monkeypatch.setattr(loaded_experiment, "compile_blocks", partial(compile_blocks, backend="eager"))
        merged = {"device": device, "output": {"dir": str(tmp_path)}, **PLAIN}
        for change in changes:
            for key, value in change.items():
                merged[key] = {**merged.get(key, {}), **value}
        federation = make_federation("llama", **merged)
        train_quietly(federation)
        state = federation.clients["a"].adapters.state()
        assert {tensor.device.type for tensor in state.values()} == {device}
        if (cache := federation.prefix_cache) is not None:
            assert cache.hits > 0 and (cache.disk_bytes > 0) == (merged["engine"]["prefix_cache"] == FILES)
        if (graphs := federation.graphs) is not None:
            for each in (graphs, federation.server.graphs):
                assert each.replayed > 0 and each.why is None, each.record()
        federation.close()
        return torch.cat([tensor.cpu().flatten() for name, tensor in state.items() if name.endswith("lora_B")])

    return run


def apart(ours, theirs):
    """The difference of two movements from 0, as a share of the second."""
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.slow), GPU])
@pytest.mark.parametrize(
    "case",
    # torch's compiler warns of what it does itself
    [pytest.param(case, marks=pytest.mark.filterwarnings("ignore")) if case == "compile" else case for case in EXACT],
)
def test_what_is_trained_is_that_of_a_cpu_without_the_option(trained, case, device):
    option, both = EXACT[case]
    assert apart(trained(device, both, option), trained("cpu", both)) <= ROUNDING


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.slow), GPU])
@pytest.mark.parametrize("case", ROUNDED)
def test_what_rounding_changes_is_little_and_the_same_on_both(trained, case, device):
    if case in ("nf4", "int8"):
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is missing (the extra quantization)")
    option, most = ROUNDED[case]
    found = trained(device, option)
    assert 0 < apart(found, trained("cpu")) <= most
    assert apart(found, trained("cpu", option)) <= ON_THE_GPU.get(case, ROUNDING)
