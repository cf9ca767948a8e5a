"""Weights in the order of the CPU's kernels: the same numbers to rounding, and the plain layer wherever they end."""

import copy
import pickle

import pytest
import torch
from support.slow import slow
from support.tiny_models import CONFIGS, FAMILIES, tiny_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.pytorch_utils import Conv1D

from atlas_cli.models.families import family_of
from atlas_cli.models.frozen import kernel_order as prepacked
from atlas_cli.models.frozen.kernel_order import prepack_blocks, prepacked_bytes, prepacked_error, prepacked_record
from atlas_cli.models.frozen.load import as_base
from atlas_cli.models.halves.split import blocks_of, run_half

pytestmark = pytest.mark.skipif(not prepacked.available(), reason="this CPU has other kernels")
LARGE = 2**30


@pytest.fixture(autouse=True)
def tiny_layers(monkeypatch):
    monkeypatch.setattr(prepacked, "LEAST", 0)


class Kernels(TorchDispatchMode):
    """Counts products on weights in order."""

    def __init__(self):
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.products += operation.overloadpacket == torch.ops.mkldnn._linear_pointwise
        return operation(*args, **kwargs or {})


def base_of(name):
    return as_base(tiny_model(name), family_of(CONFIGS[name]().model_type), name, "random")


def layer_of(kind=torch.nn.Linear, bias=True):
    """A layer by itself and the same in order, on the same parameters."""
    torch.manual_seed(0)
    plain = Conv1D(24, 16) if kind is Conv1D else torch.nn.Linear(16, 24, bias=bias)
    plain.requires_grad_(False)
    return plain, prepacked._prepacked(plain)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [each for each in FAMILIES if each != slow("falcon")[0]])  # whose layers are its own
def test_a_model_gives_the_same_numbers_and_gradients(name):
    base, plain = base_of(name), base_of(name)
    linear = [m for block in blocks_of(plain.model, plain.family) for m in block.modules()]
    linear = [m for m in linear if isinstance(m, torch.nn.Linear | Conv1D)]
    assert prepack_blocks([base], LARGE) == len(linear) > 0
    assert base.model.state_dict().keys() == plain.model.state_dict().keys()
    embeds, mask = torch.randn(2, 5, base.hidden_size), torch.tensor([[1] * 5, [1] * 3 + [0] * 2])
    found = []
    for each in (base, plain):
        x = embeds.clone().requires_grad_()
        with Kernels() as used:
            out = run_half(each.server_half(1), mask, inputs_embeds=x)
            (gradient,) = torch.autograd.grad(out[mask.bool()].square().sum(), x)
        per_block = len(linear) // base.n_layers
        more = 2 if base.family.relative_positions(base.config) else 0  # their queries and keys, which have no gradient
        assert used.products == ((2 * per_block + more) * (base.n_layers - 1) if each is base else 0)
        found.append((out.detach()[mask.bool()], gradient))
    for ours, theirs in zip(*found, strict=True):
        close(ours, theirs)
    sizes = sum(
        m.weight.numel() * 4
        for block in blocks_of(base.model, base.family)[1:]
        for m in block.modules()
        if isinstance(m, torch.nn.Linear | Conv1D)
    )
    assert prepacked_record([base, base]) == {"layers": per_block * (base.n_layers - 1), "bytes": 2 * sizes}
    assert prepacked_record([plain]) is None and prepacked_error([base]) == 0


def test_small_layers_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(prepacked, "LEAST", 4 * 32 * 32)
    base = base_of("gpt2")
    assert prepack_blocks([base], LARGE) == 2 * base.n_layers  # of the feed-forward, 32 by 128


def test_layers_get_the_memory_from_the_first_block_on():
    base = base_of("gpt2")
    width = base.hidden_size
    block = 2 * 4 * 12 * width**2
    assert prepack_blocks([base], block + 2 * 4 * 3 * width**2) == 5  # of two blocks, with four layers each
    assert [prepacked_bytes(base, n) for n in (1, 2)] == [block, block + 2 * 4 * 3 * width**2]
    assert prepack_blocks([base_of("gpt2")], 2 * 4 * 3 * width**2 - 1) == 0


@pytest.mark.parametrize("kind", [torch.nn.Linear, Conv1D])
def test_second_derivatives(kind):
    plain, ordered = layer_of(kind)
    found = []
    for layer in (plain, ordered):
        torch.manual_seed(1)
        x = torch.randn(3, 16, requires_grad=True)
        (first,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), x)[0])
    close(*found)


def test_a_weight_that_is_written_to_or_replaced_is_used_as_it_is_now():
    plain, ordered = layer_of()
    x = torch.randn(3, 16, requires_grad=True)
    ordered(x).sum().backward()
    plain.weight.mul_(2)  # the layers share their parameters
    close(ordered(x), plain(x))
    other = {"weight": torch.randn(24, 16), "bias": torch.zeros(24)}
    close(functional_call(ordered, other, x), functional_call(plain, other, x))
    trained = {"weight": torch.randn(24, 16, requires_grad=True)}
    functional_call(ordered, trained, x).sum().backward()
    close(trained["weight"].grad, x.detach().sum(0).expand(24, -1))


def test_a_copy_makes_its_own_order():
    plain, ordered = layer_of()
    ordered(torch.randn(2, 16))
    for copied in (copy.deepcopy(ordered), pickle.loads(pickle.dumps(ordered))):
        assert (ordered.held, copied.held) == (1, 0)
        with torch.no_grad():
            copied.weight.zero_()
        close(copied(torch.randn(2, 16)), plain.bias.expand(2, -1))
        assert ordered.departure() == 0


def test_an_order_that_is_no_longer_the_weight_is_found():
    base = base_of("bert")
    prepack_blocks([base], LARGE)
    run_half(base.client_half(2), None, input_ids=torch.ones(1, 3, dtype=torch.int64))
    assert prepacked_error([base]) == 0
    weight = blocks_of(base.model, base.family)[1].attention.self.key.weight
    weight.data[0, 0] += 0.5  # past autograd's count of versions
    assert prepacked_error([base]) == pytest.approx(0.5)


def test_elsewhere_the_plain_layer_computes():
    _, ordered = layer_of()
    x = torch.randn(3, 16)
    with Kernels() as used:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert ordered(x).dtype == torch.bfloat16
        assert copy.deepcopy(ordered).double()(x.double()).dtype == torch.float64
        assert ordered(x[:0]).shape == (0, 24)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert ordered(mode.from_tensor(x)).shape == (3, 24)
    assert used.products == 0


def test_without_the_kernels_nothing_is_replaced(monkeypatch):
    monkeypatch.setattr(prepacked.platform, "machine", lambda: "arm64")
    prepacked.available.cache_clear()
    try:
        assert prepack_blocks([base_of("bert")], LARGE) == 0
    finally:
        monkeypatch.undo()
        prepacked.available.cache_clear()
