"""FLoRA-NA lies between the truncated SVD, which is the best of its rank, and the mean of factors, where it begins."""

import pytest
import torch
from support.merging import factors, merge

from atlas_cli.aggregation.contract import Factors, Update, delta


@pytest.mark.parametrize("ranks", [(4, 4, 4), (4, 4, 4, 4, 4, 4), (1, 2, 4)])
def test_its_error_is_between_those_of_flexlora_and_zero_pad(ranks):
    current = {"q": factors(4, 20, 14, 0)}
    updates = [Update(str(k), 1.0 + k, {"q": factors(rank, 20, 14, k + 1)}) for k, rank in enumerate(ranks)]
    X = sum(u.weight * delta(u.adapters["q"]) for u in updates) / sum(u.weight for u in updates)
    names = ("flexlora", "flora-na", "zero-pad")
    best, found, start = ((delta(merge(n, current, updates).adapters["q"]) - X).norm() for n in names)
    assert best < found < 0.95 * start


def test_clients_whose_a_is_one_are_merged_exactly():
    """p = w is then the solution, whatever q."""
    A = factors(4, 20, 14, 0).A
    updates = [Update(str(k), 1.0 + k, {"q": Factors(A, factors(4, 20, 14, k + 1).B)}) for k in range(3)]
    X = sum(u.weight * delta(u.adapters["q"]) for u in updates) / 6
    torch.testing.assert_close(delta(merge("flora-na", {"q": updates[0].adapters["q"]}, updates).adapters["q"]), X)


def test_rows_that_nobody_sent_can_still_learn_and_so_can_an_adapter_that_was_not_trained():
    A, B = factors(4, 20, 14, 0)
    start = {"q": Factors(A, torch.zeros_like(B))}
    idle = [Update(str(rank), 1.0, {"q": Factors(A[:rank], start["q"].B[:, :rank])}) for rank in (1, 2)]
    merged = merge("flora-na", start, idle).adapters["q"]
    assert (merged.A.norm(dim=1) > 0).all() and not merged.B.any()
