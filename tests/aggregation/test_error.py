"""The error ledger against dense float64 matrices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.merging import factors

from atlas_cli.aggregation.contract import Factors, Update, delta
from atlas_cli.aggregation.error import error_ledger, exact_change, exact_sum
from atlas_cli.aggregation.low_rank import stack

SIZES = {"q": (24, 30), "v": (10, 16)}


def updates_of(ranks, seed, dtype=torch.float64):
    return [
        Update(f"c{k}", k + 1.0, {p: factors(r, *SIZES[p], seed + k, dtype) for p in SIZES})
        for k, r in enumerate(ranks)
    ]


@given(
    st.lists(st.integers(1, 8), min_size=1, max_size=4),
    st.lists(st.integers(1, 8), min_size=1, max_size=3),
    st.integers(0, 999),
    st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=40, deadline=None)
def test_is_the_error_of_dense_matrices(ranks, receivers, seed, dtype):
    updates = updates_of(ranks, seed, dtype)
    exact = {p: exact_sum(p, updates) for p in SIZES}
    target = {p: factors(9, *SIZES[p], seed + 50, dtype) for p in SIZES}
    got = {p: [(k + 2.0, factors(r, *SIZES[p], k, dtype)) for k, r in enumerate(receivers)] for p in SIZES}
    ledger = error_ledger(exact, target, got)

    def dense(f):
        return f.B.double() @ f.A.double()

    sums = torch.zeros(4, dtype=torch.float64)
    for p in SIZES:
        X = sum(u.weight * dense(u.adapters[p]) for u in updates) / sum(u.weight for u in updates)
        total = sum(w for w, _ in got[p])
        far = sum(w / total * (dense(d) - X).square().sum() for w, d in got[p])
        cut = sum(w / total * (dense(d) - dense(target[p])).square().sum() for w, d in got[p])
        parts = torch.stack([X.square().sum(), far, cut, (dense(target[p]) - X).square().sum()])
        error = ledger.layers[p]
        found = torch.tensor([error.total, error.truncation, error.cross_term], dtype=torch.float64)
        torch.testing.assert_close(found, (parts[1:] / parts[0]).sqrt(), rtol=1e-6, atol=1e-7)
        sums += parts
    overall = torch.tensor([ledger.overall.total, ledger.overall.truncation, ledger.overall.cross_term])
    torch.testing.assert_close(overall.double(), (sums[1:] / sums[0]).sqrt(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rank", [2, 8, 16])
def test_is_zero_to_rounding_when_the_delivery_is_exact(rank):
    """The stack of rank 16 + 16 is larger than a side of layer v."""
    updates = updates_of([rank, rank], 3)
    exact = {p: exact_sum(p, updates) for p in SIZES}
    copies = {p: Factors(f.A.clone(), f.B.clone()) for p, f in exact.items()}
    ledger = error_ledger(exact, copies, {p: [(1.0, copies[p])] for p in SIZES})
    assert ledger.overall.total <= 1e-12 and ledger.overall.cross_term <= 1e-12


@pytest.mark.parametrize("wrong", [1e-3, 1e-6, 1e-9])
def test_small_errors_are_seen(wrong):
    exact = {p: exact_sum(p, updates_of([4], 0)) for p in SIZES}
    got = {p: Factors(f.A, (1 + wrong) * f.B) for p, f in exact.items()}
    assert error_ledger(exact, got, {p: [(1.0, got[p])] for p in SIZES}).overall.total == pytest.approx(wrong, rel=1e-3)


def test_nothing_to_compare():
    assert exact_sum("q", []) is None
    zero = Factors(torch.randn(2, 24), torch.zeros(30, 2))
    ledger = error_ledger({"q": zero}, {"q": zero}, {"q": [(1.0, zero)]})
    assert ledger.overall is None and ledger.layers == {}
    assert error_ledger({}, {}, {}).overall is None


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_the_exact_change_is_that_of_dense_matrices(ranks, seed):
    before, updates = factors(6, 12, 9, seed), []
    for k, rank in enumerate(ranks):
        updates.append(Update(f"c{k}", k + 1.0, {"q": factors(rank, 12, 9, seed + k + 1)}))
    total = sum(u.weight for u in updates)
    dense = sum(
        u.weight / total * (delta(u.adapters["q"]) - before.B[:, :r] @ before.A[:r])
        for u, r in zip(updates, ranks, strict=True)
    )
    torch.testing.assert_close(delta(stack(exact_change("q", updates, before))), dense)
    assert exact_change("q", [], before) == []
