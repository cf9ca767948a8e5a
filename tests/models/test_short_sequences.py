"""Attention of short sequences in groups is that of each sequence by itself, in as few groups as the cost rule says."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from atlas_cli.models.halves import short_sequences
from atlas_cli.models.halves.attention_scope import seen
from atlas_cli.models.halves.real_tokens import _each_to_itself
from atlas_cli.models.halves.short_sequences import LONGEST, cost, groups_of, padded_to


def row(lengths, heads, key_heads, dtype=torch.float64):
    generator = torch.Generator().manual_seed(sum(lengths))
    shapes = ((heads, 4), (key_heads, 4), (key_heads, 3))
    made = [torch.randn(1, n, sum(lengths), d, generator=generator, dtype=dtype) for n, d in shapes]
    return [tensor.requires_grad_() for tensor in made]


def by_sequence(lengths, causal, window, scale, query, key, value):
    """Softmax attention as it is defined, one sequence after another."""
    key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], 1) for t in (key, value))
    found = []
    for length, q, k, v in zip(lengths, *(t.split(list(lengths), 2) for t in (query, key, value)), strict=True):
        sees = seen(causal, range(length), length, window, q.device)
        scores = (q @ k.mT * scale).masked_fill(~sees, float("-inf"))
        found.append((scores.softmax(-1) @ v).transpose(1, 2))
    return torch.cat(found, 1)


def both(lengths, causal, window, key_heads, shared, dtype):
    """Output and gradients in groups, and those of each sequence by itself."""
    inputs = row(lengths, key_heads * shared, key_heads, dtype)
    module = SimpleNamespace(is_causal=causal, num_key_value_groups=shared)
    grouped = _each_to_itself(lengths, module, *inputs, sliding_window=window, scaling=0.7)
    exact = by_sequence(lengths, causal, window, 0.7, *inputs)
    weights = torch.randn(exact.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    gradients = [torch.autograd.grad((out * weights).sum(), inputs) for out in (grouped, exact)]
    return [grouped, *gradients[0]], [exact, *gradients[1]]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 24), min_size=1, max_size=8),
    causal=st.booleans(),
    window=st.sampled_from([None, 1, 3]),
    key_heads=st.integers(1, 2),
    shared=st.integers(1, 3),
)
def test_each_sequence_attends_to_itself_alone(lengths, causal, window, key_heads, shared):
    """Outputs and gradients, with sliding windows and with heads that share keys."""
    for ours, exact in zip(*both(lengths, causal, window, key_heads, shared, torch.float64), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("causal", [False, True])
def test_float32_to_a_millionth(causal):
    lengths = [24, 23, 7, 5, 30, 6, 24]
    for ours, exact in zip(*both(lengths, causal, None, 4, 1, torch.float32), strict=True):
        assert (ours - exact).norm() <= 1e-6 * exact.norm()


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(1, LONGEST), min_size=1, max_size=7))
def test_groups_are_the_cheapest_cuts_of_the_sequences_in_order_of_length(lengths):
    groups = groups_of(lengths)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    n, ordered = len(lengths), sorted(lengths)
    cuts = ([0, *(i for i in range(1, n) if chosen >> i & 1), n] for chosen in range(0, 2**n, 2))
    least = min(sum(cost(ordered[end - 1], end - start) for start, end in pairwise(each)) for each in cuts)
    assert sum(cost(max(lengths[i] for i in group), len(group)) for group in groups) == pytest.approx(least)
    assert groups == groups_of(tuple(lengths))


class Counted(TorchDispatchMode):
    """How often each operator is called."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def calls(lengths, dtype=torch.float32):
    query, key, _ = row(lengths, 2, 2, dtype)
    with Counted() as counted, torch.no_grad():
        _each_to_itself(lengths, SimpleNamespace(is_causal=False), query, key, key)
    fused = [n for name, n in counted.calls.items() if "scaled_dot_product" in name]
    return counted.calls.get("_softmax", 0), sum(fused)


def test_near_lengths_share_a_call():
    """Two calls instead of one for each run of equal lengths; long sequences and other dtypes have the fused kernel."""
    lengths = [12, 40, 11, 38, 12, 41, 13, 39, 10, 40]
    assert [sorted(lengths[i] for i in group) for group in groups_of(lengths)] == [
        [10, 11, 12, 12, 13],
        [38, 39, 40, 40, 41],
    ]
    assert calls(lengths) == (2, 0)
    assert calls([*lengths, LONGEST]) == (3, 0)
    assert calls([12, 12, LONGEST + 1]) == (0, 2)
    assert calls([12, 12, 13], torch.bfloat16) == (0, 2)


def test_groups_are_padded_to_lengths_that_fill_registers():
    """Neither below 16, nor just below a multiple of 16 or of 4; at most three tokens beyond 16, and never past 128."""
    lengths = range(1, LONGEST + 1)
    assert [padded_to(n) for n in (1, 15, 16, 17, 19, 22, 23, 28, 29, 31, 45, 127)] == (
        [16, 16, 16, 17, 20, 22, 24, 28, 32, 32, 48, 128]
    )
    assert all(padded_to(padded_to(n)) == padded_to(n) for n in lengths)
    assert all(0 <= padded_to(n) - n <= 3 for n in lengths[15:])
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket.__name__ == "_softmax":
                sizes.append(tuple(args[0].shape))
            return func(*args, **(kwargs or {}))

    query, key, _ = row([5, 3, 31, 30], 2, 2, torch.float32)
    with Sizes(), torch.no_grad():
        _each_to_itself([5, 3, 31, 30], SimpleNamespace(is_causal=False), query, key, key)
    assert sizes == [(4, 16, 16), (4, 32, 32)]  # two sequences of two heads each


def test_a_layout_is_made_once_for_all_layers():
    short_sequences.layout_of.cache_clear()
    for _ in range(3):
        calls([9, 8, 9])
    assert short_sequences.layout_of.cache_info().misses == 1
