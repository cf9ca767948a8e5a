"""torch.compile of what no adapter touches: the same activations and gradients, one graph for all blocks."""

import shutil

import pytest
import torch
from support.tiny_models import CONFIGS

from atlas_cli import SplitClient
from atlas_cli.config.schema.experiment import ModelConfig
from atlas_cli.errors import ConfigError
from atlas_cli.models.adapters.placement import adapted_names
from atlas_cli.models.frozen.compile_blocks import compile_blocks, require_compiler
from atlas_cli.models.frozen.load import load_base
from atlas_cli.models.halves.split import blocks_of, run_half

# warnings of torch.compile itself
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
]
CXX = shutil.which("g++") or shutil.which("clang++")


def outcome(client, length, round_number=0):
    """Activations and gradients of adapters that are not zero."""
    draw = torch.Generator().manual_seed(length)
    inputs = {"input_ids": torch.randint(4, 20, (3, length), generator=draw)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["attention_mask"][1, 2:] = 0
    for parameter in client.trained():
        parameter.grad = None
        with torch.no_grad():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=draw))
    activations = client.compute_activations(inputs)
    client.backward(torch.randn(activations.shape, generator=draw))
    return [activations, *(p.grad for p in client.trained())]


def scored(client, length):
    """Activations without a graph of gradients, as when models are scored."""
    ids = torch.arange(4, 4 + length)[None]
    with torch.no_grad(), client.attached():
        return [run_half(client.half, torch.ones_like(ids), input_ids=ids)]


def compare(folder, family, backend, tolerance):
    base = load_base(ModelConfig(name=folder))
    clients = [SplitClient(rank, base=base, rank_config=rank, split_layer=3) for rank in (2, 3)]

    def everything():
        found = [outcome(client, length) for client in clients for length in (5, 7, 9)]
        return found + [scored(clients[0], length) for length in (5, 7) if backend == "inductor"]

    plain = everything()
    adapted = adapted_names(base.model, base.family, "auto")
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    count = compile_blocks(base, adapted, backend)
    blocks = blocks_of(base.model, base.family)
    compiled = [m for m in base.model.modules() if m._compiled_call_impl is not None]
    # OPT's feed-forward is two layers of the block itself, and no part by itself that could be compiled
    assert len(compiled) == count >= (0 if family == "opt" else len(blocks))
    touched = {id(block.get_submodule(path)) for block in blocks for path in adapted}
    assert not touched & {id(inner) for module in compiled for inner in module.modules()}
    for a, b in zip(plain, everything(), strict=True):
        for x, y in zip(a, b, strict=True):
            assert torch.allclose(x, y, rtol=0, atol=tolerance * max(1.0, float(x.abs().max())))
    return count // len(blocks)


def graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.slow
@pytest.mark.parametrize("family", CONFIGS)
def test_the_same_outcome_and_one_graph_for_all_blocks_and_clients(model_folder, family):
    parts = compare(model_folder(family), family, "eager", 1e-6)
    # one more where the first length is taken for a constant, and one below the lowest adapter, which has no gradient
    assert min(1, parts) <= graphs() <= 3 * parts


@pytest.mark.slow
@pytest.mark.skipif(CXX is None, reason="no C++ compiler (g++ or clang++) on the PATH")
@pytest.mark.parametrize("family", ["gpt2", "llama"])  # either kind of layer, of norm and of activation
def test_compiled_for_the_cpu_it_is_equal_to_rounding(model_folder, family):
    compare(model_folder(family), family, "inductor", 5e-6)  # gradients of random adapters: up to 2e-6


def test_without_a_compiler_it_is_said_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"engine\.compile.*C\+\+ compiler"):
        require_compiler(torch.device("cpu"))
    monkeypatch.setenv("CXX", str(tmp_path / "clang++.exe"))
    with pytest.raises(ConfigError, match="is not on the PATH"):
        require_compiler(torch.device("cpu"))
    (tmp_path / "clang++.exe").write_text("", encoding="utf-8")
    (tmp_path / "clang++.exe").chmod(0o755)
    require_compiler(torch.device("cpu"))
