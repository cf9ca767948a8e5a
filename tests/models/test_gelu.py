"""The fused tanh GELU: the same function, fewer bytes."""

import copy

import pytest
import torch
from support.tiny_models import tiny_model
from torch import nn
from transformers.activations import ACT2FN

from atlas_cli.federation.parties.measured_memory import saved_bytes
from atlas_cli.models.frozen.gelu import fuse_gelu


def fused():
    module = nn.ModuleDict({"act": ACT2FN["gelu_new"]})
    assert fuse_gelu(module) == 1
    return module["act"]


def test_same_function_to_2e_7_relative_to_the_values():
    x = torch.cat([torch.linspace(-12, 12, 200_001), torch.tensor([0.0, 1e-30, -1e-30])])
    written_out, one = ACT2FN["gelu_new"](x), fused()(x)
    assert ((written_out - one).abs() / (1 + x.abs())).max() < 2e-7
    exact = 0.5 * x.double() * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x.double() + 0.044715 * x.double() ** 3)))
    assert (one - exact).abs().max() <= (written_out - exact).abs().max()  # and no less exact


def test_same_derivative():
    grads = []
    for function in (ACT2FN["gelu_new"], fused()):
        x = torch.linspace(-8, 8, 10_001).requires_grad_()
        function(x).sum().backward()
        grads.append(x.grad)
    assert torch.allclose(*grads, rtol=0, atol=2e-6)  # 1.1e-6, of which each is off by half


def test_a_quarter_of_the_saved_bytes():
    x = torch.randn(64, 128)
    sizes = []
    for function in (ACT2FN["gelu_new"], fused()):
        with saved_bytes([]) as saved:
            kept = function((2 * x).requires_grad_() * 1.0)
        sizes.append(saved.total)
        del kept
    assert sizes == [4 * x.numel() * 4, x.numel() * 4]


def test_every_block_of_gpt2_and_only_the_activation():
    model = tiny_model("gpt2")
    before = copy.deepcopy(model)
    assert fuse_gelu(model) == 4
    assert fuse_gelu(model) == 0
    ids = torch.arange(12).reshape(2, 6)
    assert torch.allclose(model(ids).logits, before(ids).logits, rtol=0, atol=2e-6)
    assert model.state_dict().keys() == before.state_dict().keys()
    assert {type(m) for m in model.modules()} - {type(m) for m in before.modules()} == {nn.GELU}


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_models_with_another_activation_are_left_alone(family):
    model = tiny_model(family)
    types = [type(m) for m in model.modules()]
    assert fuse_gelu(model) == 0
    assert [type(m) for m in model.modules()] == types
