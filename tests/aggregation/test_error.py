import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_cli.aggregation import zero_pad
from atlas_cli.aggregation._base import Factors, Update, delta
from atlas_cli.aggregation._error import exact_sum, relative_error

SIZES = {"q": (24, 30), "v": (10, 16)}


def factors(rank, path, seed, dtype=torch.float64):
    d_in, d_out = SIZES[path]
    draw = torch.Generator().manual_seed(seed)
    return Factors(
        torch.randn(rank, d_in, generator=draw, dtype=dtype), torch.randn(d_out, rank, generator=draw, dtype=dtype)
    )


def dense_error(merged, updates):
    """norm(dW - X) / norm(X) over all layers that somebody sent, with dense float64 matrices."""
    error = size = 0.0
    for path, held in merged.items():
        sent = [(u.weight, u.adapters[path]) for u in updates if path in u.adapters]
        if sent:
            exact = sum(w * f.B.double() @ f.A.double() for w, f in sent) / sum(w for w, _ in sent)
            error += (held.B.double() @ held.A.double() - exact).square().sum().item()
            size += exact.square().sum().item()
    return (error / size) ** 0.5


def updates_of(ranks, seed, paths=("q", "v"), dtype=torch.float64):
    return [Update(f"c{k}", k + 1.0, {p: factors(r, p, seed + k, dtype) for p in paths}) for k, r in enumerate(ranks)]


@given(
    st.lists(st.integers(1, 8), min_size=1, max_size=4), st.integers(0, 999), st.sampled_from(["float32", "float64"])
)
@settings(max_examples=50, deadline=None)
def test_is_the_error_of_dense_matrices(ranks, seed, dtype):
    updates = updates_of(ranks, seed, dtype=getattr(torch, dtype))
    current = {p: factors(8, p, 5) for p in SIZES}
    merged = zero_pad.aggregate(current, updates)
    assert relative_error(merged, updates) == pytest.approx(dense_error(merged, updates), rel=1e-9, abs=1e-12)


def test_layers_that_some_or_all_did_not_send():
    updates = updates_of([3, 2], 0)
    updates[1] = Update("c1", 2.0, {"q": updates[1].adapters["q"]})
    merged = {p: factors(4, p, 9) for p in SIZES}
    assert relative_error(merged, updates) == pytest.approx(dense_error(merged, updates), rel=1e-12)
    only_q = [Update(u.client, u.weight, {"q": u.adapters["q"]}) for u in updates]
    assert relative_error(merged, only_q) == pytest.approx(dense_error(merged, only_q), rel=1e-12)


@pytest.mark.parametrize("rank", [2, 8, 16])
def test_is_zero_to_rounding_when_the_merge_is_exact(rank):
    """Stacked factors are the exact sum; the stack of rank 16 + 16 is larger than a side of layer v."""
    updates = [Update("a", 3.0, {p: factors(rank // 2, p, 1) for p in SIZES}), Update("b", 1.0, {})]
    updates[1] = Update("b", 1.0, {p: factors(rank - rank // 2, p, 2) for p in SIZES})
    merged = {p: exact_sum(p, updates) for p in SIZES}
    exact = 0.75 * delta(updates[0].adapters["q"]) + 0.25 * delta(updates[1].adapters["q"])
    torch.testing.assert_close(delta(merged["q"]), exact)
    assert relative_error(merged, updates) <= 1e-12


@pytest.mark.parametrize("wrong", [1e-3, 1e-6, 1e-9])
def test_small_errors_are_seen(wrong):
    updates = updates_of([4], 0)
    merged = {p: Factors(f.A, (1 + wrong) * f.B) for p, f in updates[0].adapters.items()}
    assert relative_error(merged, updates) == pytest.approx(wrong, rel=1e-3)


def test_is_none_where_there_is_nothing_to_compare():
    merged = {"q": factors(4, "q", 0)}
    assert relative_error(merged, []) is None
    assert relative_error(merged, [Update("c", 1.0, {"v": factors(2, "v", 0)})]) is None
    zero = Factors(torch.randn(2, 24), torch.zeros(30, 2))
    assert relative_error({"q": zero}, [Update("c", 1.0, {"q": zero})]) is None


def test_does_not_depend_on_the_scale_of_the_weights():
    updates = updates_of([3, 2], 0)
    merged = {p: factors(4, p, 9) for p in SIZES}
    larger = [Update(u.client, 1000 * u.weight, u.adapters) for u in updates]
    assert relative_error(merged, updates) == pytest.approx(relative_error(merged, larger), rel=1e-12)
