"""A layer on weights in order and the adapters of a row are one operation, with the numbers of two by themselves."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_models import CONFIGS, PACKED_FAMILIES, tiny_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from atlas_cli.models.adapters.add_low_rank import Span, adapted_product, add_low_rank
from atlas_cli.models.adapters.lora import build_adapters
from atlas_cli.models.adapters.per_client_rows import Segment, attached_segments
from atlas_cli.models.adapters.placement import adapted_names, place_ranks
from atlas_cli.models.families import family_of
from atlas_cli.models.frozen import kernel_order
from atlas_cli.models.frozen.kernel_order import Prepacked, prepack_blocks
from atlas_cli.models.frozen.load import as_base
from atlas_cli.models.halves.real_tokens import run_packed

pytestmark = pytest.mark.skipif(not kernel_order.available(), reason="this CPU has other kernels")
LENGTHS, ROWS = [4, 2, 5, 3], (6, 8)


@pytest.fixture(autouse=True)
def tiny_layers(monkeypatch):
    monkeypatch.setattr(kernel_order, "LEAST", 0)


def base_of(name):
    return as_base(tiny_model(name), family_of(CONFIGS[name]().model_type), name, "random")


def segments(base):
    """Two clients: of rank 2 in all blocks, and of rank 3 in the last one."""
    names = adapted_names(base.model, base.family, "auto")
    sets = []
    for rank, blocks in ((2, range(base.n_layers)), (3, [base.n_layers - 1])):
        ranks = place_ranks(base.model, base.family, {block: rank for block in blocks}, blocks, names, "rank")
        found = build_adapters(base.model, ranks, alpha=16, seed=rank)
        for adapter in found.adapters.values():
            nn.init.normal_(adapter.lora_B, std=0.1, generator=torch.Generator().manual_seed(rank))
        sets.append(found)
    return [Segment(adapters, rows) for adapters, rows in zip(sets, ROWS, strict=True)]


def run(base, clients, rows):
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    with attached_segments(base.model, clients):
        return run_packed(base.server_half(0), LENGTHS, positions, inputs_embeds=rows)


def nodes(output):
    """How often each kind of operation is in the graph of a tensor."""
    found, left = set(), [output.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in found:
            found.add(node)
            left += [below for below, _ in node.next_functions]
    return Counter(node.name() for node in found)


@pytest.mark.parametrize("name", PACKED_FAMILIES)
def test_a_row_gives_the_same_numbers_and_gradients_as_plain_layers(name):
    base, plain = base_of(name), base_of(name)
    layers = prepack_blocks([base], 2**30)
    clients = segments(base)
    rows = torch.randn(sum(LENGTHS), base.hidden_size, generator=torch.Generator().manual_seed(0), requires_grad=True)
    wanted = [rows, *(p for client in clients for p in client.adapters.parameters())]
    ours, theirs = (run(each, clients, rows) for each in (base, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    adapted = len(clients[0].adapters.adapters)
    found, hooked = nodes(ours), nodes(theirs)
    assert found["_AddLowRankBackward"] == hooked["_AddLowRankBackward"] == adapted
    assert found["_ProductBackward"] == layers - adapted  # an adapted layer is one node
    assert not any("forward" in vars(module) or module._forward_hooks for module in base.model.modules())
    gradients = [torch.autograd.grad(out.square().sum(), wanted) for out in (ours, theirs)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def parts(kind, spans, d_in, d_out):
    """A layer in order, its input, the rows of adapters and their factors."""
    torch.manual_seed(0)
    layer = kernel_order._prepacked(
        (Conv1D(d_out, d_in) if kind is Conv1D else kind(d_in, d_out)).requires_grad_(False)
    )
    placed, factors, rows = [], [], 0
    for count, rank, scale in spans:
        placed.append(Span(rows, rows + count, scale))
        factors += [torch.randn(rank, d_in, requires_grad=True), torch.randn(d_out, rank, requires_grad=True)]
        rows += count
    return layer, torch.randn(1, rows, d_in), placed, factors


SPANS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 20), st.floats(0.1, 4)), min_size=1, max_size=4)


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
@settings(max_examples=30, deadline=None)
@given(spans=SPANS, d_in=st.integers(1, 24), d_out=st.integers(1, 24), below=st.booleans())
def test_output_and_gradients_of_factors_are_the_same_bits_as_of_two_operations(kind, spans, d_in, d_out, below):
    layer, x, placed, factors = parts(kind, spans, d_in, d_out)
    x.requires_grad_(below)
    one, two = adapted_product(layer, x, placed, factors), add_low_rank(layer(x), x, placed, factors)
    assert torch.equal(one, two)
    gradient = torch.randn_like(one)
    found, expected = (torch.autograd.grad(y, factors + [x] * below, gradient) for y in (one, two))
    for ours, theirs in zip(found[: len(factors)], expected, strict=False):
        assert torch.equal(ours, theirs)
    if below:  # a sum of three in another order
        torch.testing.assert_close(found[-1], expected[-1], rtol=1e-4, atol=1e-4)


def test_second_derivatives():
    layer, x, placed, factors = parts(nn.Linear, [(4, 2, 0.5), (3, 3, 2.0)], 6, 5)
    x.requires_grad_()
    found = []
    for way in (adapted_product(layer, x, placed, factors), add_low_rank(layer(x), x, placed, factors)):
        (first,) = torch.autograd.grad(way.pow(3).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), [x, *factors]))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3 * float(theirs.abs().max()))


def test_a_layer_that_cannot_take_its_input_computes_as_its_class_does():
    base = base_of("bert")
    prepack_blocks([base], 2**30)
    base.model.double()
    clients = segments(base)
    for client in clients:
        for adapter in client.adapters.adapters.values():
            adapter.double()
    rows = torch.randn(sum(LENGTHS), base.hidden_size, dtype=torch.float64, requires_grad=True)
    out = run(base, clients, rows)
    assert out.dtype == torch.float64 and nodes(out)["_ProductBackward"] == 0
    assert nodes(out)["_AddLowRankBackward"] == len(clients[0].adapters.adapters)
    assert all(not module.held for module in base.model.modules() if isinstance(module, Prepacked))
