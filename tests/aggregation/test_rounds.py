"""Methods over several merges: ranks that change, receivers of every rank, a server short of memory."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.merging import factors, merge, method, of_factors

from atlas_cli.aggregation.contract import Factors, Update, delta, truncated
from atlas_cli.aggregation.error import error_ledger, exact_sum
from atlas_cli.aggregation.low_rank import STACK_COPIES

MERGING = [name for name in of_factors() if method(name).SENT]
D_IN, D_OUT = 40, 30


def fresh(rank):
    f = factors(rank, D_IN, D_OUT, 0)
    return {"q": Factors(f.A, torch.zeros_like(f.B))}


def stepped(name, f, seed):
    step = factors(f.rank, D_IN, D_OUT, seed)
    return Factors(f.A + 0.3 * step.A if "A" in method(name).parts_of(1).trained else f.A, f.B + 0.3 * step.B)


@given(st.sampled_from(MERGING), st.lists(st.lists(st.integers(1, 8), min_size=1, max_size=4), min_size=2, max_size=4))
@settings(max_examples=40, deadline=None)
def test_ranks_may_change_between_rounds(name, by_round):
    current = fresh(8)
    for number, ranks in enumerate(by_round):
        updates = []
        for k, rank in enumerate(ranks):
            held = truncated(current, {"q": rank})
            got = method(name).deliver(current, held, {"q": rank})["q"]
            assert got.A.shape == (rank, D_IN) and got.B.shape == (D_OUT, rank)
            updates.append(Update(f"c{k}", 1.0 + k, {"q": stepped(name, got, 10 * number + k)}))
        merged = merge(name, current, updates, round_number=number)
        assert merged.adapters["q"].A.shape == (8, D_IN) and merged.adapters["q"].B.shape == (D_OUT, 8)
        assert (merged.adapters["q"].A.norm(dim=1) > 0).all()  # with A and B both 0 a component could never learn
        if method(name).CHANGES_BASE:
            start = sum(
                u.weight / sum(v.weight for v in updates) * delta(truncated(current, {"q": r})["q"])
                for u, r in zip(updates, ranks, strict=True)
            )
            exact = delta(exact_sum("q", updates)) - start
            torch.testing.assert_close(delta(merged.base["q"]), exact, atol=1e-9, rtol=1e-9)
        current = merged.adapters


@pytest.mark.parametrize("name", ["delta-svd", "flexlora"])
@pytest.mark.parametrize("seed", range(3))
def test_an_svd_is_never_farther_at_a_higher_rank(name, seed):
    current = fresh(12)
    updates = [Update(str(r), 1.0, {"q": stepped(name, truncated(current, {"q": r})["q"], seed + r)}) for r in (3, 9)]
    merged, exact = merge(name, current, updates), exact_sum("q", updates)
    far = [
        (delta(method(name).deliver(merged.adapters, {}, {"q": r})["q"]) - delta(exact)).norm() for r in range(1, 13)
    ]
    assert all(a > b - 1e-12 for a, b in pairwise(far))
    assert far[-1] < 1e-9  # rank 3 + 9 holds all


@pytest.mark.parametrize("name", ["delta-svd", "flexlora"])
def test_what_a_memory_cap_costs_is_a_cross_term_and_no_truncation(name):
    current = fresh(4)
    updates = [Update(str(k), 1.0, {"q": stepped(name, current["q"], k)}) for k in range(3)]  # rank 12 in all
    exact, found = exact_sum("q", updates), {}
    for room in (13, 6):
        merged = merge(name, current, updates, server_memory=room * STACK_COPIES * 8 * (D_IN + D_OUT))
        found[room] = error_ledger({"q": exact}, merged.target, {"q": [(1.0, merged.target["q"])]}).overall
    assert found[13].cross_term < 1e-12
    assert found[6].cross_term > 0.01 and found[6].truncation < 1e-12


def test_zero_pad_flexlora_and_delta_svd_after_partial_rounds():
    """A client of rank 2 alone takes part. Averages forget the components above 2, delta-svd keeps them all."""
    start = factors(6, D_IN, D_OUT, 1)
    start = merge("flexlora", {"q": start}, [Update("a", 1.0, {"q": start})]).adapters
    alone = [Update("small", 1.0, truncated(start, {"q": 2}))]
    lost = {
        name: ((delta(merge(name, start, alone).adapters["q"]) - delta(start["q"])).norm() / delta(start["q"]).norm())
        for name in ("zero-pad", "flexlora", "delta-svd")
    }
    assert lost["zero-pad"] > 0.3 and lost["flexlora"] > 0.3 and lost["delta-svd"] < 1e-12


def test_an_idle_round_of_fedsa_leaves_each_client_its_own_update():
    group = {"q": factors(8, D_IN, D_OUT, 0)}
    held = {r: {"q": Factors(group["q"].A[:r], factors(r, D_IN, D_OUT, r).B)} for r in (2, 5, 8)}
    merged = merge("fedsa", group, [Update(str(r), 1.0 + r, f) for r, f in held.items()]).adapters
    for rank, mine in held.items():
        got = method("fedsa").deliver(merged, mine, {"q": rank})["q"]
        torch.testing.assert_close(delta(got), delta(mine["q"]))


@pytest.mark.parametrize("name", MERGING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_results_have_the_dtype_of_the_groups_adapter(name, dtype):
    current = {"q": Factors(*(t.to(dtype) for t in fresh(4)["q"]))}
    mine = {"q": Factors(current["q"].A, current["q"].B + 1)}
    merged = merge(name, current, [Update("a", 1.0, mine), Update("b", 2.0, mine)])
    tensors = [*merged.adapters["q"], *merged.base.get("q", ())]
    assert all(t.dtype == dtype and t.isfinite().all() for t in tensors)
