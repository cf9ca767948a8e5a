"""raFLoRA against delta-svd: the same where ranks are equal, more gain for what few clients can hold."""

import pytest
import torch
from support.merging import factors, merge

from atlas_cli.aggregation.contract import Factors, Update, delta, truncated


def sorted_factors(sigma, d_in=9, d_out=7):
    """Orthonormal components of given sizes, in descending order."""
    draw = torch.Generator().manual_seed(1)
    V, U = (torch.linalg.qr(torch.randn(d, len(sigma), generator=draw, dtype=torch.float64)).Q for d in (d_in, d_out))
    return Factors(V.T, U * torch.tensor(sigma, dtype=torch.float64))


@pytest.mark.parametrize("rank", [3, 5])
def test_equal_ranks_are_delta_svd_bit_for_bit(rank):
    """Whether the group's own rank is theirs, or is that of a client that is absent."""
    current = {"q": factors(5, 12, 18, 0, torch.float32)}
    updates = [Update(str(k), 1.0 + k, {"q": factors(rank, 12, 18, k + 1, torch.float32)}) for k in range(3)]
    one, other = (merge(name, current, updates) for name in ("raflora", "delta-svd"))
    for found, wanted in ((one.adapters, other.adapters), (one.target, other.target)):
        assert all(torch.equal(t, u) for t, u in zip(found["q"], wanted["q"], strict=True))


def test_three_idle_rounds_collapse_flexlora_and_leave_raflora():
    """Ranks 1, 2 and 4 of weights 1/2, 1/4 and 1/4: component j is multiplied by the share of ranks from j on."""
    kept = {}
    for name in ("flexlora", "raflora", "delta-svd"):
        current = {"q": sorted_factors([4.0, 3.0, 2.0, 1.0])}
        for _ in range(3):
            idle = [Update(str(r), w, truncated(current, {"q": r})) for r, w in ((1, 0.5), (2, 0.25), (4, 0.25))]
            current = merge(name, current, idle).adapters
        kept[name] = torch.linalg.svdvals(delta(current["q"]))[:4]
    whole = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(kept["flexlora"], torch.tensor([4.0, 0.375, 0.03125, 0.015625], dtype=torch.float64))
    torch.testing.assert_close(kept["raflora"], whole)
    torch.testing.assert_close(kept["delta-svd"], whole)


def test_a_component_that_one_client_holds_is_moved_by_all_that_it_did():
    """By a tenth of it with delta-svd, where its weight is a tenth."""
    start = {"q": sorted_factors([3.0, 2.0])}
    A, B = start["q"]
    moved = Factors(A, B * torch.tensor([1.0, 1.5], dtype=torch.float64))
    updates = [Update("large", 1.0, {"q": moved}), Update("small", 9.0, truncated(start, {"q": 1}))]
    sizes = {
        n: torch.linalg.svdvals(delta(merge(n, start, updates).adapters["q"]))[:2] for n in ("raflora", "delta-svd")
    }
    torch.testing.assert_close(sizes["raflora"], torch.tensor([3.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(sizes["delta-svd"], torch.tensor([3.0, 2.1], dtype=torch.float64))
