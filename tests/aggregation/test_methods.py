"""What every aggregation method must compute, each held to its equation with dense matrices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.merging import factors, merge, method, of_factors

from atlas_cli.aggregation.contract import Factors, Update, absorb, delta, release, truncated
from atlas_cli.models.adapters.lora import scale_of

PATHS = {"q": (12, 18), "v": (14, 10), "up": (16, 16)}
ALL = of_factors()
MERGING = [name for name in ALL if method(name).SENT]
SPECTRAL = ["delta-svd", "flexlora", "raflora"]
R = 5
EPS = {torch.float32: 2e-4, torch.float64: 1e-9}


def trained(current, ranks, seed, name):
    """What a client of these ranks may send: a step away from what it got, in the parts that the method trains."""
    result = {}
    for path, f in truncated(current, ranks).items():
        step = factors(f.rank, f.A.shape[1], f.B.shape[0], seed + len(path), f.A.dtype)
        A = f.A + 0.3 * step.A if "A" in method(name).parts_of(1).trained else f.A
        result[path] = Factors(A, f.B + 0.3 * step.B)
    return result


@st.composite
def groups(draw, name=None, everyone=False):
    """(method, the adapter before, updates): unequal ranks by layer with gaps, unequal weights, both precisions."""
    name = name or draw(st.sampled_from(MERGING))
    dtype, seed = draw(st.sampled_from([torch.float32, torch.float64])), draw(st.integers(0, 9999))
    fresh = draw(st.booleans()) or name == "flora"
    current = {p: factors(R, *size, seed, dtype) for p, size in PATHS.items()}
    if fresh:
        current = {p: Factors(f.A, torch.zeros_like(f.B)) for p, f in current.items()}
    updates = []
    for k in range(draw(st.integers(1, 4))):
        held = list(PATHS) if everyone else draw(st.lists(st.sampled_from(list(PATHS)), unique=True, min_size=1))
        ranks = {p: draw(st.integers(1, R)) for p in held}
        updates.append(Update(f"c{k}", draw(st.floats(0.5, 100)), trained(current, ranks, seed + 7 * k, name)))
    return name, current, updates


def shares(path, updates):
    held = [u for u in updates if path in u.adapters]
    return [(u.weight / sum(v.weight for v in held), u.adapters[path]) for u in held]


def padded(path, updates, weights=None):
    held = shares(path, updates)
    weights = weights or [w for w, _ in held]
    A, B = (sum(w * pad(f)[i] for w, (_, f) in zip(weights, held, strict=True)) for i in (0, 1))
    return A, B


def pad(f):
    A = torch.cat([f.A, f.A.new_zeros(R - f.rank, f.A.shape[1])])
    return Factors(A, torch.cat([f.B, f.B.new_zeros(f.B.shape[0], R - f.rank)], 1))


def best(matrix, rank):
    U, S, Vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    return (U[:, :rank] * S[:rank]) @ Vh[:rank]


def by_levels(held, before):
    """raFLoRA, eq. 8: slices between all ranks that clients may have; of a level without a participant G's own."""
    total, low = torch.zeros_like(delta(before)), 0
    for high in range(1, R + 1):
        there = [(w, f) for w, f in held if f.rank >= high] or [(1.0, before)]
        reach = sum(w for w, _ in there)
        total += sum(w / reach * f.B[:, low:high] @ f.A[low:high] for w, f in there)
        low = high
    return total


def nearest(held):
    """FLoRA-NA: weights of all A and of all B in turn, by dense least squares from their means on."""
    A, B = ([pad(f)[i].double() for _, f in held] for i in (0, 1))
    X = sum(w * delta(f).double() for w, f in held)
    mean = sum(w * a for (w, _), a in zip(held, A, strict=True))
    for _ in range(20):
        p = least_squares([b @ mean for b in B], X)
        whole = sum(x * b for x, b in zip(p, B, strict=True))
        mean = sum(x * a for x, a in zip(least_squares([whole @ a for a in A], X), A, strict=True))
    return whole @ mean


def least_squares(terms, wanted):
    return torch.linalg.lstsq(torch.stack([t.flatten() for t in terms], 1), wanted.flatten()[:, None]).solution[:, 0]


def expected(name, path, current, updates):
    """(dW of the group's adapter, change of the base), dense, by each paper's equation."""
    held = shares(path, updates)
    before = current[path]
    X = sum(w * delta(f) for w, f in held)
    A, B = padded(path, updates)
    change = X - sum(w * before.B[:, : f.rank] @ before.A[: f.rank] for w, f in held)
    if name in ("zero-pad", "scaffold"):
        return B @ A, None
    if name == "flora-na":
        return nearest(held), None
    if name == "fedsa":  # rows that nobody sent stay
        sent = max(f.rank for _, f in held)
        reach = torch.tensor([sum(w for w, f in held if f.rank > j) for j in range(sent)], dtype=A.dtype)
        return before.B @ torch.cat([A[:sent] / reach[:, None], before.A[sent:]]), None
    if name == "fed-plora":  # as fedsa, of A and of B; what nobody sent stays
        reach = [sum(w for w, f in held if f.rank > j) for j in range(R)]
        A, B = before.A.clone(), before.B.clone()
        for j in (j for j in range(R) if reach[j]):
            A[j] = sum(w * f.A[j] for w, f in held if f.rank > j) / reach[j]
            B[:, j] = sum(w * f.B[:, j] for w, f in held if f.rank > j) / reach[j]
        return B @ A, None
    if name == "ffa":
        return B @ before.A, None
    if name in ("rolora", "fedsvd"):  # of B alone, over one A: exact, and what nobody was sent stays
        return delta(before) + change, None
    if name == "hetlora":
        norms = [delta(f).norm() for _, f in held]
        A, B = padded(path, updates, [n / sum(norms) for n in norms])
        return B @ A, None
    if name == "flexlora":
        return best(X, R), None
    if name == "delta-svd":
        return best(delta(before) + change, R), None
    if name == "raflora":
        return best(by_levels(held, before), R), None
    if name == "flora":
        return torch.zeros_like(X), change
    if name == "fedex":
        return B @ A, change
    if method(name).EQUAL_CLIENTS:
        changes = [delta(f) - before.B[:, : f.rank] @ before.A[: f.rank] for _, f in held]
        middle = torch.stack(changes).quantile(0.5, 0) if name == "median" else sum(changes) / len(changes)
        return best(delta(before) + middle, R), None  # trim: 0.1 cuts nobody of four
    assert name == "lora-fair"
    rank = max(f.rank for _, f in held)
    A, B, X = A[:rank].double(), B[:, :rank].double(), X.double()
    gram = A @ A.T
    ridge = method(name).options.ridge * gram.diagonal().mean() * torch.eye(rank, dtype=A.dtype)
    return (B + (X @ A.T - B @ gram) @ torch.linalg.inv(gram + ridge)) @ A, None


@given(groups())
@settings(max_examples=250, deadline=None)
def test_computes_its_equation(group):
    name, current, updates = group
    merged = merge(name, current, updates)
    for path, before in current.items():
        if not shares(path, updates):
            assert torch.equal(merged.adapters[path].A, before.A) and torch.equal(merged.adapters[path].B, before.B)
            assert path not in merged.base
            continue
        product, change = expected(name, path, current, updates)
        found, eps = merged.adapters[path], EPS[before.A.dtype]
        assert found.A.shape == before.A.shape and found.B.shape == before.B.shape and found.A.dtype == before.A.dtype
        torch.testing.assert_close(delta(found).double(), product.double(), atol=20 * eps, rtol=eps)
        if change is not None:
            torch.testing.assert_close(delta(merged.base[path]), change, atol=20 * eps, rtol=eps)
        else:
            assert merged.base == {}


@pytest.mark.slow
@given(groups(), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_the_order_of_clients_does_not_matter(group, random):
    name, current, updates = group
    one, other = merge(name, current, updates), merge(name, current, random.sample(updates, len(updates)))
    for path, f in one.adapters.items():
        eps = 20 * EPS[f.A.dtype]
        torch.testing.assert_close(delta(f), delta(other.adapters[path]), atol=eps, rtol=eps)
        if path in one.base:
            torch.testing.assert_close(delta(one.base[path]), delta(other.base[path]), atol=eps, rtol=eps)


@given(groups(everyone=True), st.integers(1, 5))
@settings(max_examples=80, deadline=None)
def test_identical_clients_and_one_alone_lose_nothing(group, copies):
    name, current, updates = group
    mine = updates[0].adapters
    same = [Update(f"c{k}", 1.0 + k, mine) for k in range(copies)]
    merged = merge(name, current, same)
    ranks = {path: f.rank for path, f in mine.items()}
    got = method(name).deliver(merged.adapters, mine, ranks)
    for path, f in mine.items():
        eps = 20 * EPS[f.A.dtype]
        worth = delta(got[path])
        if method(name).CHANGES_BASE:  # the client subtracts what its adapter is worth at delivery
            before = current[path].B[:, : f.rank] @ current[path].A[: f.rank]
            worth = before + delta(merged.base[path])
        elif (
            name in ("delta-svd", "raflora", "rolora", "fedsvd", "fed-plora") or method(name).EQUAL_CLIENTS
        ) and f.rank < R:  # the group keeps what this client was never sent
            worth = worth if not current[path].B.any() else delta(f)
        wide = 100 * eps if name == "lora-fair" else eps
        torch.testing.assert_close(worth, delta(f), atol=wide, rtol=wide)


@pytest.mark.parametrize("name", ALL)
def test_a_group_whose_clients_all_fail_stays_as_it_is(name):
    current = {p: factors(R, *size, 1) for p, size in PATHS.items()}
    merged = merge(name, current, [])
    assert merged.base == {} and all(torch.equal(merged.adapters[p].B, f.B) for p, f in current.items())


@pytest.mark.parametrize("name", ["delta-svd", "fedex", "ffa", "flexlora", "flora", "lora-fair"])
def test_scales_are_absorbed_and_released(name):
    """Ranks 4 and 64 with one alpha: their scales differ by 16, and what is merged is the update and not B A."""
    alpha, sizes = 16.0, factors(64, 80, 96, 0)
    current = {"q": Factors(sizes.A, torch.zeros_like(sizes.B))}
    updates, exact = [], 0
    for client, rank in (("a", 4), ("b", 64)):
        scale, B = scale_of(rank, alpha), factors(rank, 80, 96, rank).B
        state = {"q.lora_A": current["q"].A[:rank], "q.lora_B": B}
        updates.append(Update(client, 1.0, absorb(state, {"q": scale})))
        exact = exact + 0.5 * scale * B @ current["q"].A[:rank]
    merged = merge(name, current, updates)
    scale = scale_of(64, alpha)
    got = release(method(name).deliver(merged.adapters, {}, {"q": 64}), {"q": scale})
    worth = scale * got["q.lora_B"] @ got["q.lora_A"]
    if method(name).CHANGES_BASE:  # the client subtracts what its adapter is worth at delivery
        worth = delta(merged.base["q"])
    torch.testing.assert_close(worth, exact, atol=1e-4, rtol=1e-4)


def test_idle_rounds_cost_absolute_averages_what_they_cost_and_others_nothing():
    """Clients of ranks 4, 8, 16 and 64 do nothing for five rounds."""
    start = factors(64, 80, 96, 0)
    start = merge("flexlora", {"q": start}, [Update("a", 1.0, {"q": start})]).adapters["q"]
    kept = {}
    for name in SPECTRAL:
        current = {"q": start}
        for _ in range(5):
            idle = [Update(str(r), 1.0, truncated(current, {"q": r})) for r in (4, 8, 16, 64)]
            current = merge(name, current, idle).adapters
        kept[name] = (delta(current["q"]) - delta(start)).norm() / delta(start).norm()
    assert kept["delta-svd"] < 1e-12 and kept["raflora"] < 1e-12
    assert kept["flexlora"] > 0.2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_memory_cap_changes_nothing_that_fits(dtype):
    current = {p: factors(R, *size, 1, dtype) for p, size in PATHS.items()}
    updates = [Update(str(k), 1.0 + k, trained(current, dict.fromkeys(PATHS, R), k, "flexlora")) for k in range(4)]
    for name in SPECTRAL:
        free, capped = (merge(name, current, updates, server_memory=m).adapters for m in (None, 200_000))
        for path in PATHS:
            torch.testing.assert_close(delta(free[path]), delta(capped[path]), atol=1e-4, rtol=1e-4)


def test_flora_starts_again_from_a_fresh_seeded_nested_A():
    current = {"q": factors(R, 12, 18, 0, torch.float32)}
    updates = [Update("a", 1.0, {"q": factors(R, 12, 18, 1, torch.float32)})]
    first, again, later = (merge("flora", current, updates, round_number=n).adapters["q"] for n in (1, 1, 2))
    assert torch.equal(first.A, again.A) and not torch.equal(first.A, later.A) and not first.B.any()
    smaller = {"q": Factors(current["q"].A[:2], current["q"].B[:, :2])}
    assert torch.equal(merge("flora", smaller, updates, round_number=1).adapters["q"].A, first.A[:2])


def test_the_ridge_of_lora_fair_draws_it_towards_the_mean():
    current = {"q": factors(R, 12, 18, 0)}
    updates = [Update(str(k), 1.0, trained(current, {"q": 3 + k}, k, "lora-fair")) for k in range(2)]
    mean = merge("zero-pad", current, updates).adapters["q"]
    far = [(merge("lora-fair", current, updates, ridge=r).adapters["q"].B - mean.B).norm() for r in (1e-9, 0.1, 1e6)]
    assert far[0] > far[1] > far[2] and far[2] < 1e-3
