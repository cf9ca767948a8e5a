"""Low-rank arithmetic against dense matrices."""

import math
import os
import platform

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import warm
from support.merging import factors

from atlas_cli.aggregation.contract import Factors, delta
from atlas_cli.aggregation.low_rank import (
    DENSE_COPIES,
    STACK_COPIES,
    LowRankSum,
    inner,
    redistribute,
    squared_norm,
    stack,
    svd,
    truncate,
    weighted_sum,
)
from atlas_cli.errors import ConfigError

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
    found = redistribute(svd(f), current)
    assert found.A.shape == current.A.shape and found.A.dtype == dtype
    torch.testing.assert_close(delta(found), delta(f), rtol=1e-4, atol=1e-4)
    assert (found.A.norm(dim=1) >= 1 / math.sqrt(3) - 1e-5).all() or torch.equal(found.A[rank:], current.A[rank:])
    assert not found.B[:, rank:].any()
    norms = found.B.norm(dim=0) * found.A.norm(dim=1)  # the sigmas, in descending order
    assert (norms.diff() <= 1e-4 * norms[0]).all()


def test_nothing_stays_as_it_was():
    current = Factors(torch.randn(4, 6), torch.zeros(5, 4))
    found = redistribute(weighted_sum([(1.0, Factors(torch.randn(2, 6), torch.zeros(5, 2)))]), current)
    assert torch.equal(found.A, current.A) and torch.equal(found.B, current.B)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 99), DTYPES)
@settings(max_examples=40, deadline=None)
def test_a_sum_is_exact_whether_stacked_or_dense(ranks, seed, dtype):
    parts = [((k + 1) / 3, factors(r, 14, 11, seed + k, dtype)) for k, r in enumerate(ranks)]
    dense = sum(w * f.B.double() @ f.A.double() for w, f in parts)
    torch.testing.assert_close(delta(weighted_sum(parts).factors), dense)


ROW = STACK_COPIES * 8 * (200 + 300)  # what a rank takes in a layer of 300 x 200


@pytest.mark.slow
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(2, 40), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_cap_is_never_passed_and_what_it_costs_is_bounded(ranks, room, seed):
    """No dense matrix fits; parts of more than the room itself are added piece by piece."""
    total, exact = LowRankSum(200, 300, room * ROW), torch.zeros(300, 200, dtype=torch.float64)
    for k, rank in enumerate(ranks):
        f = factors(rank, 200, 300, seed + k)
        total.add(0.5, f)
        exact += 0.5 * delta(f)
        assert total.rank <= room
    lost = (delta(total.svd().factors) - exact).norm().item()
    assert lost <= total.dropped + 1e-9
    if sum(ranks) <= room:
        assert lost <= 1e-9 and total.dropped == 0


def test_a_cap_loses_nothing_while_the_rank_of_the_sum_leaves_room_for_more():
    total = LowRankSum(200, 300, 16 * ROW)
    for k in range(20):
        total.add(1.0, factors(4, 200, 300, k % 2))  # rank 8 in all
    exact = stack([(10.0, factors(4, 200, 300, 0)), (10.0, factors(4, 200, 300, 1))])
    torch.testing.assert_close(delta(total.svd().factors), delta(exact))
    assert total.dropped <= 1e-9


def test_a_cap_that_leaves_no_room_is_an_error():
    with pytest.raises(ConfigError, match=rf"300 x 200; allow at least {2 * ROW}"):
        LowRankSum(200, 300, 2 * ROW - 1)


MEASURE = """
import ctypes, sys, torch
from pathlib import Path
from atlas_cli.aggregation.contract import Factors
from atlas_cli.aggregation.low_rank import redistribute, weighted_sum

def resident(what):
    return int(Path("/proc/self/status").read_text().split(what + ":")[1].split()[0])

torch.set_num_threads(1)
rank, memory = int(sys.argv[1]), int(sys.argv[2])
parts = [(1.0, Factors(torch.randn(rank, 900), torch.randn(1100, rank))) for _ in range(8)]
current = Factors(torch.randn(rank, 900), torch.zeros(1100, rank))
redistribute(weighted_sum(parts, memory), current)  # code of libraries is resident from its first use on
ctypes.CDLL(None).malloc_trim(0)  # nor is what was freed there counted in what was resident before
Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is resident
before = resident("VmRSS")
redistribute(weighted_sum(parts, memory), current)
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="cannot reset the peak of a process")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="cannot have freed memory returned")
@pytest.mark.slow  # each is a process of its own
@pytest.mark.parametrize(("rank", "copies"), [(48, "stack"), (64, "dense"), (64, "cut")])
def test_a_merge_takes_no_more_than_its_cap(rank, copies):
    stacked, dense = 8 * STACK_COPIES * 8 * rank * 2000, DENSE_COPIES * 8 * 900 * 1100
    memory = {"stack": stacked, "dense": dense, "cut": stacked // 4}[copies]
    process = warm.start([str(rank), str(memory)], MEASURE)
    out, error = process.communicate()
    assert process.returncode == 0, error
    taken = 1024 * int(out)
    assert 0.4 * memory < taken <= memory
