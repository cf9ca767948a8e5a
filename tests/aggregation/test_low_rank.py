"""Low-rank arithmetic against dense matrices."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merging import factors

from atlas_cli.aggregation._base import Factors, delta
from atlas_cli.aggregation._low_rank import LowRankSum, inner, redistribute, squared_norm, stack, svd, truncate

SHAPES = st.tuples(st.integers(3, 24), st.integers(3, 24))  # d_in != d_out, both ways
DTYPES = st.sampled_from([torch.float32, torch.float64])


@given(SHAPES, st.integers(1, 20), st.integers(0, 99), DTYPES)
@settings(max_examples=60, deadline=None)
def test_svd_by_qr_is_the_dense_one(shape, rank, seed, dtype):
    f = factors(rank, *shape, seed, dtype)
    U, S, Vh = svd(f)
    dense = f.B.double() @ f.A.double()
    k = min(len(S), *shape)
    torch.testing.assert_close(S[:k], torch.linalg.svdvals(dense)[:k], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close((U * S) @ Vh, dense, rtol=1e-9, atol=1e-9)
    assert (Vh.gather(1, Vh.abs().argmax(1, keepdim=True)) > 0).all()


@given(SHAPES, st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_truncation_loses_the_dropped_singular_values_and_never_more_at_a_higher_rank(shape, rank, kept, seed):
    f = factors(rank, *shape, seed)
    sigma = torch.linalg.svdvals(delta(f))
    for keep in (kept, kept + 1):
        lost = squared_norm(stack([(1.0, f), (-1.0, truncate(f, keep))]))
        assert lost == pytest.approx(sigma[keep:].square().sum().item(), rel=1e-6, abs=1e-9)


@given(SHAPES, st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_inner_products_and_norms(shape, first, second, seed):
    f, g = factors(first, *shape, seed), factors(second, *shape, seed + 1)
    assert inner(f, g) == pytest.approx((delta(f) * delta(g)).sum().item(), rel=1e-9, abs=1e-9)
    assert squared_norm(f) == pytest.approx(delta(f).square().sum().item(), rel=1e-9)
    total = math.sqrt(squared_norm(stack([(0.3, f), (0.7, g)])))
    assert total <= 0.3 * math.sqrt(squared_norm(f)) + 0.7 * math.sqrt(squared_norm(g)) + 1e-9


@given(SHAPES, st.integers(1, 3), st.integers(1, 3), st.integers(0, 99), DTYPES)
@settings(max_examples=40, deadline=None)
def test_redistribution_keeps_the_product_and_leaves_no_row_dead(shape, rank, room, seed, dtype):
    f, current = factors(rank, *shape, seed, dtype), factors(rank + room, *shape, seed + 1, dtype)
    found = redistribute(f, current)
    assert found.A.shape == current.A.shape and found.A.dtype == dtype
    torch.testing.assert_close(delta(found), delta(f), rtol=1e-4, atol=1e-4)
    assert (found.A.norm(dim=1) >= 1 / math.sqrt(3) - 1e-5).all() or torch.equal(found.A[rank:], current.A[rank:])
    assert not found.B[:, rank:].any()
    norms = found.B.norm(dim=0) * found.A.norm(dim=1)  # the sigmas, in descending order
    assert (norms.diff() <= 1e-4 * norms[0]).all()


def test_nothing_stays_as_it_was():
    current = Factors(torch.randn(4, 6), torch.zeros(5, 4))
    found = redistribute(Factors(torch.randn(2, 6), torch.zeros(5, 2)), current)
    assert torch.equal(found.A, current.A) and torch.equal(found.B, current.B)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_sum_is_exact_whether_stacked_or_dense(ranks, seed):
    parts = [((k + 1) / 3, factors(r, 14, 11, seed + k)) for k, r in enumerate(ranks)]
    total = LowRankSum()
    for weight, f in parts:
        total.add(weight, f)
    torch.testing.assert_close(delta(total.factors()), sum(w * delta(f) for w, f in parts))


def test_a_memory_cap_bounds_the_stack_and_loses_what_the_cap_demands():
    cap = 2 * 3 * 8 * (200 + 300) * 8  # room for rank 8; a dense matrix does not fit
    total = LowRankSum(cap)
    for k in range(20):
        total.add(1.0, factors(4, 200, 300, k % 2))  # rank 8 in all
        assert sum(f.rank for f in total._parts) * 3 * 8 * 500 <= cap
    exact = stack([(10.0, factors(4, 200, 300, 0)), (10.0, factors(4, 200, 300, 1))])
    torch.testing.assert_close(delta(total.factors()), delta(exact))
    total.add(1.0, factors(12, 200, 300, 9))  # rank 20: the cap cuts it
    assert total.factors().rank <= 20 and total._dense is None
