"""Adapters against the formula: W + s B A as a dense matrix, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from support.tiny_models import tiny_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from atlas_cli import SplitClient
from atlas_cli.config.schema.experiment import LoraConfig
from atlas_cli.models.adapters.lora import AdapterSet, LoRAAdapter, build_adapters, features_of, initial_A, scale_of
from atlas_cli.models.families import family_of
from atlas_cli.models.frozen.load import as_base

D_IN, D_OUT = 6, 10


def layer_of(kind):
    torch.manual_seed(3)
    layer = nn.Linear(D_IN, D_OUT) if kind == "Linear" else Conv1D(D_OUT, D_IN)
    with torch.no_grad():
        layer.bias.uniform_(-1, 1)
    return layer.double()


def adapter_of(rank=3, **changes):
    generator = torch.Generator().manual_seed(4)
    adapter = LoRAAdapter(D_IN, D_OUT, rank, generator=generator, **{"alpha": 8.0, **changes}).double()
    with torch.no_grad():
        adapter.lora_B.copy_(torch.randn(D_OUT, rank, generator=generator))
    return adapter


@pytest.mark.parametrize("shape", [(5, D_IN), (2, 5, D_IN), (2, 3, 5, D_IN)], ids=["2-D", "3-D", "4-D"])
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(("rank", "alpha"), [(1, 16.0), (3, 8.0), (6, 0.5)])
@pytest.mark.parametrize("kind", ["Linear", "Conv1D"])
def test_equals_the_dense_layer(kind, rank, alpha, rslora, shape):
    layer, adapter = layer_of(kind), adapter_of(rank, alpha=alpha, rslora=rslora)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    scale = alpha / math.sqrt(rank) if rslora else alpha / rank
    dense = scale * adapter.lora_B @ adapter.lora_A
    weight = layer.weight if kind == "Linear" else layer.weight.T
    wanted = F.linear(x, weight + dense, layer.bias)
    assert adapter.scaling == scale == scale_of(rank, alpha, rslora)
    with AdapterSet({"0": adapter}).attached(nn.Sequential(layer)):
        adapted = layer(x)
    assert adapted.shape == (*shape[:-1], D_OUT)
    torch.testing.assert_close(adapted, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(adapter(x), F.linear(x, dense), rtol=0, atol=1e-12)
    assert not torch.equal(layer(x), adapted)


@pytest.mark.parametrize("shape", [(5, D_IN), (2, 5, D_IN)])
def test_add_to_is_the_sum_in_float32(shape):
    adapter = adapter_of().float()
    x, output = torch.randn(shape), torch.randn(*shape[:-1], D_OUT)
    kept = output.clone()
    torch.testing.assert_close(adapter.add_to(output, x), output + adapter(x), rtol=0, atol=1e-6)
    assert torch.equal(output, kept), "the layer's own output must not be changed in place"


def test_add_to_reads_outputs_that_are_not_contiguous():
    adapter = adapter_of()
    x = torch.randn(2, 5, D_IN, dtype=torch.float64)
    output = torch.randn(5, 2, D_OUT, dtype=torch.float64).transpose(0, 1)
    torch.testing.assert_close(adapter.add_to(output, x), output + adapter(x), rtol=0, atol=1e-12)


def test_gradients_are_those_of_the_dense_layer():
    layer, adapter = layer_of("Linear").requires_grad_(False), adapter_of()
    x = torch.randn(2, 5, D_IN, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 5, D_OUT, dtype=torch.float64)
    wanted = [x, adapter.lora_A, adapter.lora_B]
    with AdapterSet({"0": adapter}).attached(nn.Sequential(layer)):
        mine = torch.autograd.grad((weights * layer(x)).sum(), wanted)
    dense = layer.weight + adapter.scaling * adapter.lora_B @ adapter.lora_A
    theirs = torch.autograd.grad((weights * F.linear(x, dense, layer.bias)).sum(), wanted)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_bfloat16_inputs_are_summed_in_float32_and_returned_in_bfloat16():
    adapter = adapter_of().float()
    x, output = torch.randn(2, 5, D_IN).bfloat16(), torch.randn(2, 5, D_OUT).bfloat16()
    assert adapter(x).dtype == torch.float32
    added = adapter.add_to(output, x)
    assert added.dtype == torch.bfloat16
    exact = output.double() + adapter.scaling * F.linear(x.double(), (adapter.lora_B @ adapter.lora_A).double())
    # one rounding of the sum: half a unit in the last of 8 bits
    assert ((added.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()


@pytest.mark.parametrize("rank", [0, -1, 7])
def test_rank_bounds(rank):
    with pytest.raises(ValueError, match=rf"^rank {rank} is not within 1\.\.6$"):
        LoRAAdapter(D_IN, D_OUT, rank)


@pytest.mark.parametrize("rank", [1, 6])
def test_smallest_and_largest_rank(rank):
    adapter = LoRAAdapter(D_IN, D_OUT, rank)
    assert adapter.lora_A.shape == (rank, D_IN) and adapter.lora_B.shape == (D_OUT, rank)
    assert not adapter.lora_B.any()
    assert adapter.lora_A.abs().max() <= 1 / math.sqrt(D_IN)
    assert sum(p.numel() for p in adapter.parameters()) == rank * (D_IN + D_OUT)


def test_features_of():
    assert features_of(nn.Linear(6, 10)) == features_of(Conv1D(10, 6)) == (6, 10)
    with pytest.raises(TypeError, match="LoRA adapts Linear and Conv1D layers, not Embedding"):
        features_of(nn.Embedding(3, 3))


def test_dropout_acts_on_the_input_of_A_in_training_only():
    adapter = adapter_of(dropout=0.5)
    x = torch.ones(4, D_IN, dtype=torch.float64)
    dense = F.linear(x, adapter.scaling * adapter.lora_B @ adapter.lora_A)
    torch.manual_seed(1)
    dropped = adapter(x)
    torch.manual_seed(1)
    kept = F.dropout(x, 0.5)
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    torch.testing.assert_close(dropped, F.linear(F.linear(kept, adapter.lora_A), adapter.scaling * adapter.lora_B))
    assert (dropped - dense).abs().max() > 0.1
    adapters = AdapterSet({"0": adapter})
    adapters.train(False)
    torch.testing.assert_close(adapter(x), dense)
    adapters.train()
    assert not torch.allclose(adapter(x), dense)


def test_dropout_of_a_client_is_a_function_of_seed_client_round_and_step():
    base = as_base(tiny_model("llama"), family_of("llama"), "llama", "random")
    ids = {"input_ids": torch.tensor([[7, 8, 9, 10]])}

    def sent(name="a", seed=0, round_number=1, step=2):
        client = SplitClient(name, rank_config=4, split_layer=2, base=base, lora=LoraConfig(dropout=0.5), seed=seed)
        with torch.no_grad():
            for i, p in enumerate(client.adapters.parameters()):
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
        return client.forward(ids, round_number, step, None).activations

    torch.manual_seed(123)
    first = sent()
    expected_draw = torch.rand(1, generator=torch.Generator().manual_seed(123))
    assert torch.rand(1) == expected_draw, "the global generator must not be moved"
    assert torch.equal(first, sent())
    for change in ({"name": "b"}, {"seed": 1}, {"round_number": 2}, {"step": 3}):
        assert not torch.equal(first, sent(**change)), change


def test_initial_A_is_nested_across_ranks():
    base = tiny_model("gpt2").base_model
    path, other = "h.0.attn.c_attn", "h.1.attn.c_attn"
    by_rank = {r: build_adapters(base, {other: 3, path: r}, alpha=1.0, seed=7).state() for r in (1, 4, 32)}
    for r in (1, 4):
        assert torch.equal(by_rank[r][f"{path}.lora_A"], by_rank[32][f"{path}.lora_A"][:r])
    assert not torch.equal(by_rank[4][f"{other}.lora_A"], by_rank[4][f"{path}.lora_A"][:3])
    alone = build_adapters(base, {path: 4}, alpha=1.0, seed=7).state()
    assert torch.equal(alone[f"{path}.lora_A"], by_rank[4][f"{path}.lora_A"])
    assert not torch.equal(
        build_adapters(base, {path: 4}, alpha=1.0, seed=8).state()[f"{path}.lora_A"], alone[f"{path}.lora_A"]
    )


def test_initial_A_is_uniform_within_its_bound():
    A = initial_A(64, 100, torch.Generator().manual_seed(0))
    assert A.abs().max() <= 0.1
    assert A.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.03)
    assert A.mean().item() == pytest.approx(0, abs=0.002)


@pytest.fixture
def adapters():
    return AdapterSet({"a": adapter_of(2), "b": adapter_of(3)})


def test_state_names_and_order(adapters):
    assert list(adapters.state()) == ["a.lora_A", "a.lora_B", "b.lora_A", "b.lora_B"]
    assert [tuple(p.shape) for p in adapters.parameters()] == [(2, 6), (10, 2), (3, 6), (10, 3)]
    assert not any(t.requires_grad for t in adapters.state().values())


def test_load_takes_over_values_without_sharing_them(adapters):
    other = {name: torch.randn_like(t) for name, t in adapters.state().items()}
    adapters.load(other)
    assert all(torch.equal(t, other[name]) for name, t in adapters.state().items())
    other["a.lora_A"].zero_()
    assert adapters.state()["a.lora_A"].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("b.lora_B"), r"adapter names differ: \['b.lora_B'\]"),
        (lambda s: s.update({"c.lora_A": s["a.lora_A"]}), r"adapter names differ: \['c.lora_A'\]"),
        (
            lambda s: s.update({"a.lora_A": torch.zeros(3, 6)}),
            r"a.lora_A: shape \(3, 6\) delivered, \(2, 6\) held",
        ),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_load_refuses_what_does_not_fit(adapters, change, message):
    state = {name: torch.zeros_like(t) for name, t in adapters.state().items()}
    change(state)
    with pytest.raises(ValueError, match=message):
        adapters.load(state)
