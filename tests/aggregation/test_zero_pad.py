import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.merging import aggregate, method

from atlas_cli.aggregation.contract import Factors, Update, absorb, delta, release

DTYPES = st.sampled_from([torch.float32, torch.float64])
PATHS = {"q": (6, 9), "v": (7, 5), "up": (8, 8)}
EPS = {torch.float32: 1e-5, torch.float64: 1e-12}


def factors(rank, d_in, d_out, seed, dtype):
    draw = torch.Generator().manual_seed(seed)
    return Factors(
        torch.randn(rank, d_in, generator=draw, dtype=dtype), torch.randn(d_out, rank, generator=draw, dtype=dtype)
    )


@st.composite
def groups(draw, paths=tuple(PATHS), same_ranks=False):
    """(the adapter before, updates): clients of unequal ranks and weights, each without some of the layers."""
    dtype, seed = draw(DTYPES), draw(st.integers(0, 10_000))
    n = draw(st.integers(1, 4))
    rank = {p: draw(st.integers(1, 5)) for p in paths}
    updates = []
    for k in range(n):
        held = paths if same_ranks else draw(st.lists(st.sampled_from(paths), unique=True, min_size=1))
        ranks = rank if same_ranks else {p: draw(st.integers(1, 5)) for p in held}
        adapters = {p: factors(ranks[p], *PATHS[p], seed + 10 * k + i, dtype) for i, p in enumerate(held)}
        updates.append(Update(f"c{k}", draw(st.floats(0.5, 1000)), adapters))
    current = {p: factors(rank[p] if same_ranks else 5, *PATHS[p], seed + 99, dtype) for p in paths}
    return current, updates


def close(a, b, dtype):
    torch.testing.assert_close(a, b, atol=EPS[dtype], rtol=EPS[dtype])


def dtype_of(current):
    return current["q"].A.dtype


@given(groups())
@settings(max_examples=100, deadline=None)
def test_is_the_weighted_mean_of_padded_factors(group):
    current, updates = group
    merged = aggregate("zero-pad", current, updates)
    for path, (d_in, d_out) in PATHS.items():
        held = [u for u in updates if path in u.adapters]
        if not held:
            assert torch.equal(merged[path].A, current[path].A) and torch.equal(merged[path].B, current[path].B)
            continue
        total = sum(u.weight for u in held)
        A = torch.zeros(5, d_in, dtype=dtype_of(current))
        B = torch.zeros(d_out, 5, dtype=dtype_of(current))
        for u in held:
            rank = u.adapters[path].rank
            A += u.weight / total * torch.cat([u.adapters[path].A, A.new_zeros(5 - rank, d_in)])
            B += u.weight / total * torch.cat([u.adapters[path].B, B.new_zeros(d_out, 5 - rank)], 1)
        largest = max(u.adapters[path].rank for u in held)
        close(merged[path].A[:largest], A[:largest], A.dtype)
        close(merged[path].B, B, A.dtype)
        close(delta(merged[path]), B @ A, A.dtype)


@given(groups(same_ranks=True))
@settings(max_examples=50, deadline=None)
def test_equal_ranks_and_equal_A_give_the_plain_weighted_mean_of_updates(group):
    current, updates = group
    first = updates[0].adapters
    updates = [Update(u.client, u.weight, {p: Factors(first[p].A, u.adapters[p].B) for p in PATHS}) for u in updates]
    merged = aggregate("zero-pad", current, updates)
    total = sum(u.weight for u in updates)
    for path in PATHS:
        exact = sum(u.weight / total * delta(u.adapters[path]) for u in updates)
        close(delta(merged[path]), exact, exact.dtype)


@pytest.mark.slow
@given(groups(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_order_of_clients_does_not_matter(group, random):
    current, updates = group
    shuffled = random.sample(updates, len(updates))
    merged, other = aggregate("zero-pad", current, updates), aggregate("zero-pad", current, shuffled)
    for path in PATHS:
        close(merged[path].A, other[path].A, dtype_of(current))
        close(merged[path].B, other[path].B, dtype_of(current))


@given(groups(same_ranks=True), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_identical_clients_are_a_fixed_point(group, copies):
    current, updates = group
    same = [Update(f"c{k}", 1.0 + k, updates[0].adapters) for k in range(copies)]
    merged = aggregate("zero-pad", current, same)
    ranks = {path: f.rank for path, f in updates[0].adapters.items()}
    delivered = method("zero-pad").deliver(merged, current, ranks)
    for path in PATHS:
        close(delivered[path].A, updates[0].adapters[path].A, dtype_of(current))
        close(delivered[path].B, updates[0].adapters[path].B, dtype_of(current))


@pytest.mark.slow
@given(groups(), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_delivered_is_the_merged_adapter_truncated_to_the_ranks_of_the_receiver(group, rank):
    current, updates = group
    merged = aggregate("zero-pad", current, updates)
    delivered = method("zero-pad").deliver(merged, {}, {"q": rank, "up": 1})
    assert list(delivered) == ["q", "up"]
    assert torch.equal(delivered["q"].A, merged["q"].A[:rank])
    assert torch.equal(delivered["q"].B, merged["q"].B[:, :rank])
    assert delivered["up"].rank == 1


@given(groups())
@settings(max_examples=50, deadline=None)
def test_what_was_sent_and_what_was_before_are_not_changed(group):
    current, updates = group
    held = [f for u in updates for f in u.adapters.values()] + list(current.values())
    before = [(f.A.clone(), f.B.clone()) for f in held]
    aggregate("zero-pad", current, updates)
    assert all(torch.equal(f.A, A) and torch.equal(f.B, B) for f, (A, B) in zip(held, before, strict=True))


@pytest.mark.parametrize("rank", [4, 8, 16, 64])
@pytest.mark.parametrize("power", [1, 0.5], ids=["lora", "rslora"])
def test_scale_is_absorbed_so_a_lone_client_keeps_its_update_at_every_rank(rank, power):
    """Ranks 4..64 share alpha = 16, so their scales differ by up to 16; the group's adapter has rank 64."""
    scale, group_scale = 16 / rank**power, 16 / 64**power
    sent = factors(rank, 96, 80, rank, torch.float64)
    current = {"q": factors(64, 96, 80, 1, torch.float64)}
    absorbed = absorb({"q.lora_A": sent.A, "q.lora_B": sent.B}, {"q": scale})
    merged = aggregate("zero-pad", current, [Update("c", 7.0, absorbed)])
    update = scale * sent.B @ sent.A
    group = release(merged, {"q": group_scale})
    torch.testing.assert_close(group_scale * group["q.lora_B"] @ group["q.lora_A"], update)
    back = release(method("zero-pad").deliver(merged, absorbed, {"q": rank}), {"q": scale})
    torch.testing.assert_close(back["q.lora_A"], sent.A)
    torch.testing.assert_close(back["q.lora_B"], sent.B)


def test_two_ranks_that_share_alpha_have_equal_say():
    """Equal updates from a client of rank 2 and one of rank 4: forgetting the scale would double one of them."""
    A, B = torch.randn(2, 6, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    small = absorb({"q.lora_A": A, "q.lora_B": B}, {"q": 16 / 2})
    padded = {"q.lora_A": torch.cat([A, torch.zeros_like(A)]), "q.lora_B": torch.cat([2 * B, torch.zeros_like(B)], 1)}
    large = absorb(padded, {"q": 16 / 4})
    current = {"q": factors(4, 6, 5, 0, torch.float64)}
    merged = aggregate("zero-pad", current, [Update("s", 1, small), Update("l", 1, large)])
    torch.testing.assert_close(delta(merged["q"]), 8 * B @ A)


def test_components_that_nobody_sent_can_still_learn():
    """A round of low-rank clients only: A and B both zero would have no gradient for ever after."""
    current = {"q": factors(4, 6, 5, 0, torch.float64)}
    merged = aggregate("zero-pad", current, [Update("small", 1.0, {"q": factors(2, 6, 5, 1, torch.float64)})])["q"]
    assert torch.equal(merged.B[:, 2:], torch.zeros(5, 2, dtype=torch.float64))
    assert (merged.A[2:].norm(dim=1) > 0).all()


def test_weights_of_zero_leave_the_adapter_as_it_is():
    current = {"q": factors(3, 6, 5, 0, torch.float32)}
    merged = aggregate("zero-pad", current, [Update("c", 0.0, {"q": factors(3, 6, 5, 1, torch.float32)})])
    assert torch.equal(merged["q"].A, current["q"].A)


def test_a_group_of_one_keeps_its_factors_and_by_delta_svd_its_update_alone():
    before, sent = ({"q": factors(3, *PATHS["q"], seed, torch.float64)} for seed in (1, 2))
    padded, rewritten = (aggregate(name, before, [Update("c", 7.0, sent)])["q"] for name in ("zero-pad", "delta-svd"))
    close(padded.A, sent["q"].A, torch.float64)
    close(padded.B, sent["q"].B, torch.float64)
    close(delta(rewritten), delta(sent["q"]), torch.float64)
    assert not torch.allclose(rewritten.A.T @ rewritten.A, sent["q"].A.T @ sent["q"].A, atol=0.1)
