"""Trimmed mean and median: clients that send anything move the group no further than honest ones do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.merging import factors, merge, method

from atlas_cli import discovery
from atlas_cli.aggregation.contract import Factors, Update, delta, truncated
from atlas_cli.aggregation.coordinates import CHUNK_COPIES
from atlas_cli.aggregation.low_rank import DENSE_COPIES
from atlas_cli.errors import ConfigError

ROBUST = [name for name in discovery.names("aggregation.methods") if method(name).EQUAL_CLIENTS]
TRIM = {"trimmed-mean": {"trim": 0.2}, "median": {}}
R, D_IN, D_OUT = 24, 24, 30  # full rank, so that nothing is cut after the merge


def group(ranks=(4, 2, 3, 4, 1), seed=0):
    current = {"q": factors(R, D_IN, D_OUT, seed)}
    updates = []
    for k, rank in enumerate(ranks):
        sent, step = truncated(current, {"q": rank})["q"], factors(rank, D_IN, D_OUT, seed + k + 1)
        updates.append(Update(f"c{k}", 1.0 + k, {"q": Factors(sent.A + 0.1 * step.A, sent.B + 0.1 * step.B)}))
    return current, updates


def changes(current, updates):
    """What each client changed, dense (K, d_out, d_in)."""
    before = current["q"]
    held = [u.adapters["q"] for u in updates]
    return torch.stack([delta(f) - before.B[:, : f.rank] @ before.A[: f.rank] for f in held])


def moved(name, current, updates, **options):
    return delta(merge(name, current, updates, **options).adapters["q"]) - delta(current["q"])


def scaled(current, update, size):
    """The same client with a change ``size`` times as large; full rank is what it needs to say so."""
    change = size * changes(current, [update])[0]
    U, S, Vh = torch.linalg.svd(delta(current["q"]) + change, full_matrices=False)
    return Update(update.client, 1e6, {"q": Factors(Vh, U * S)})


def test_an_attacker_moves_the_mean_without_bound_and_the_robust_ones_no_further_than_honest_ones_do():
    current, updates = group()
    honest = changes(current, updates[:-1])
    low, high = honest.amin(0), honest.amax(0)
    reach = torch.maximum(low.abs(), high.abs()).norm()
    far = {}
    for size in (1, 1000):
        bad = [*updates[:-1], scaled(current, updates[-1], size)]
        far[size] = moved("delta-svd", current, bad).norm()
        for name in ROBUST:
            change = moved(name, current, bad, **TRIM[name])
            assert (change >= low - 1e-9).all() and (change <= high + 1e-9).all()
            assert change.norm() <= reach
    assert far[1000] > 100 * reach


@given(st.lists(st.integers(1, 5), min_size=1, max_size=7), st.integers(0, 999), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_are_torchs_quantile_and_scipys_trimmed_mean_in_any_order(ranks, seed, random):
    current, updates = group(ranks, seed)
    each = changes(current, updates)
    cut = len(ranks) // 4
    kept = each.sort(0).values[cut : len(ranks) - cut]
    shuffled = random.sample(updates, len(updates))
    torch.testing.assert_close(moved("median", current, shuffled), each.quantile(0.5, 0), atol=1e-9, rtol=1e-9)
    found = moved("trimmed-mean", current, shuffled, trim=0.25)
    torch.testing.assert_close(found, kept.mean(0), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ROBUST)
def test_identical_clients_are_a_fixed_point_and_weights_count_for_nothing(name):
    current, updates = group()
    same = [Update(f"c{k}", 10.0**k, updates[0].adapters) for k in range(5)]
    assert torch.allclose(moved(name, current, same, **TRIM[name]), changes(current, updates)[0], atol=1e-9)
    reweighted = [Update(u.client, 1 / u.weight, u.adapters) for u in updates]
    assert torch.equal(moved(name, current, updates), moved(name, current, reweighted))


def test_trim_0_is_the_uniform_mean_of_delta_svd():
    current, updates = group()
    uniform = [Update(u.client, 1.0, u.adapters) for u in updates]
    mean = moved("delta-svd", current, uniform)
    torch.testing.assert_close(moved("trimmed-mean", current, updates, trim=0.0), mean, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ROBUST)
def test_chunks_of_rows_change_nothing_and_a_cap_below_the_dense_sum_is_refused(name):
    current, updates = group()
    least = DENSE_COPIES * 8 * D_IN * D_OUT
    assert (least - 2 * 8 * D_IN * D_OUT) // (CHUNK_COPIES * 8 * 5 * D_IN) < D_OUT  # more than one chunk
    whole, chunked = (merge(name, current, updates, server_memory=m).adapters["q"] for m in (None, least))
    torch.testing.assert_close(delta(whole), delta(chunked), atol=1e-11, rtol=1e-11)
    with pytest.raises(ConfigError, match=f"allow at least {least}") as error:
        merge(name, current, updates, server_memory=least - 1)
    assert error.value.key == "aggregation.server_memory"


def test_too_few_clients_to_be_robust_is_said():
    def caution(name, n, **options):
        return method(name, **options).caution(n)

    assert "cuts nobody" in caution("trimmed-mean", 9) and caution("trimmed-mean", 10) is None
    assert caution("trimmed-mean", 5, trim=0.2) is None
    assert "plain mean" in caution("median", 2) and caution("median", 3) is None
