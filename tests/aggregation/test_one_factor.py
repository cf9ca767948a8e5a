"""Methods that train one factor at a time: rolora in turn, fedsvd B over an A that is rotated."""

import pytest
import torch
from support.merging import factors, merge

from atlas_cli.aggregation.contract import Factors, Update, delta, truncated
from atlas_cli.aggregation.error import exact_change
from atlas_cli.aggregation.low_rank import stack

CURRENT = {"q": factors(5, 12, 18, 0)}


def trained(current, part):
    """Clients of ranks 2, 5 and 3 that trained one factor."""
    updates = []
    for k, rank in enumerate((2, 5, 3)):
        own, step = truncated(current, {"q": rank})["q"], factors(rank, 12, 18, k + 1)
        moved = Factors(own.A + step.A, own.B) if part == "A" else Factors(own.A, own.B + step.B)
        updates.append(Update(str(k), 1.0 + k, {"q": moved}))
    return updates


@pytest.mark.parametrize(("number", "part"), [(1, "B"), (2, "A"), (3, "B")])
def test_rolora_merges_exactly_what_clients_changed_in_one_factor(number, part):
    updates, before = trained(CURRENT, part), CURRENT["q"]
    merged = merge("rolora", CURRENT, updates, number=number).adapters["q"]
    change = delta(stack(exact_change("q", updates, before)))
    torch.testing.assert_close(delta(merged), delta(before) + change)
    other = "A" if part == "B" else "B"
    assert torch.equal(getattr(merged, other), getattr(before, other))


def test_fedsvd_keeps_the_product_and_turns_it_to_orthonormal_rows():
    updates = trained(CURRENT, "B")
    merged, plain = (merge(name, CURRENT, updates).adapters["q"] for name in ("fedsvd", "rolora"))
    torch.testing.assert_close(delta(merged), delta(plain))
    torch.testing.assert_close(merged.A @ merged.A.T, torch.eye(5, dtype=torch.float64))
    sizes = merged.B.norm(dim=0)
    torch.testing.assert_close(sizes, torch.linalg.svdvals(delta(plain))[:5])
    U, S, Vh = torch.linalg.svd(delta(plain))
    for rank in range(1, 5):  # what a client of that rank is sent
        torch.testing.assert_close(merged.B[:, :rank] @ merged.A[:rank], (U[:, :rank] * S[:rank]) @ Vh[:rank])


def test_fedsvd_rotates_within_the_rows_that_there_were():
    """Where B is of rank 1 an SVD of the product would make up four rows."""
    A, B = CURRENT["q"]
    low = {"q": Factors(A, B[:, :1] * torch.tensor([1.0, 2, 0, 0, 0], dtype=torch.float64))}
    merged = merge("fedsvd", low, [Update("a", 1.0, low)]).adapters["q"]
    torch.testing.assert_close(delta(merged), delta(low["q"]))
    inside = torch.linalg.lstsq(A.T, merged.A.T).solution
    torch.testing.assert_close(A.T @ inside, merged.A.T)
    torch.testing.assert_close(merged.A @ merged.A.T, torch.eye(5, dtype=torch.float64))


def test_fedsvd_merges_as_ffa_where_ranks_are_equal():
    """They differ by what A is in the next round."""
    updates = [
        Update(str(k), 1.0 + k, {"q": Factors(CURRENT["q"].A, CURRENT["q"].B + factors(5, 12, 18, k + 1).B)})
        for k in range(3)
    ]
    found = [delta(merge(name, CURRENT, updates).adapters["q"]) for name in ("fedsvd", "ffa")]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(("name", "number"), [("rolora", 1), ("rolora", 2), ("fedsvd", 1)])
def test_an_idle_round_changes_nothing(name, number):
    idle = [Update(str(rank), 1.0 + rank, truncated(CURRENT, {"q": rank})) for rank in (1, 3)]
    merged = merge(name, CURRENT, idle, number=number).adapters["q"]
    torch.testing.assert_close(delta(merged), delta(CURRENT["q"]), atol=1e-13, rtol=1e-13)
