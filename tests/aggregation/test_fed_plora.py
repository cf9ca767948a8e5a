"""Fed-PLoRA: each component is the mean over those who trained it, whichever these are."""

from collections import Counter

import pytest
import torch
from support.merging import factors, merge, method

from atlas_cli.aggregation.contract import Factors, Update
from atlas_cli.aggregation.selection import as_run, others, picked

R, RANKS = 6, {"a": 2, "b": 3, "c": 5}
CURRENT = {"q": factors(R, 12, 18, 0)}


def trained(k, own, far=0.3):
    """What a client runs that moved its own components, by hand: all others are the group's."""
    A, B = (part.clone() for part in CURRENT["q"])
    step = factors(R, 12, 18, k + 1)
    for j in own:
        A[j] += far * step.A[j]
        B[:, j] += far * step.B[:, j]
    return {"q": Factors(A, B)}


def test_each_component_is_the_mean_of_those_who_trained_it():
    sets = {"a": [1, 4], "b": [0, 1, 3], "c": [0, 1, 2, 4]}  # nobody has the last
    updates = [
        Update(name, 1.0 + k, trained(k, own), components={"q": own}) for k, (name, own) in enumerate(sets.items())
    ]
    merged = merge("fed-plora", CURRENT, updates).adapters["q"]
    for j in range(R):
        there = [u for u in updates if j in sets[u.client]]
        total = sum(u.weight for u in there)
        A, B = (
            sum(u.weight / total * part(u.adapters["q"]) for u in there) if there else part(CURRENT["q"])
            for part in (lambda f, j=j: f.A[j], lambda f, j=j: f.B[:, j])
        )
        torch.testing.assert_close(merged.A[j], A)
        torch.testing.assert_close(merged.B[:, j], B)
    assert torch.equal(merged.A[5], CURRENT["q"].A[5]) and torch.equal(merged.B[:, 5], CURRENT["q"].B[:, 5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_idle_round_is_the_identity_bit_for_bit(dtype):
    current = {"q": factors(R, 12, 18, 0, dtype)}
    updates = [
        Update(
            name, 0.1 * rank, current, components={"q": method("fed-plora").selected(name, 1, "q", rank, current["q"])}
        )
        for name, rank in RANKS.items()
    ]
    merged = merge("fed-plora", current, updates).adapters["q"]
    assert all(torch.equal(new, old) for new, old in zip(merged, current["q"], strict=True))


def test_at_full_rank_it_is_zero_pad():
    every = range(R)
    updates = [Update(str(k), 1.0 + k, trained(k, every), components={"q": every}) for k in range(3)]
    one, other = (merge(name, CURRENT, updates).adapters["q"] for name in ("fed-plora", "zero-pad"))
    torch.testing.assert_close(one.A, other.A)
    torch.testing.assert_close(one.B, other.B)


def test_components_are_drawn_alike_from_the_seed_and_each_as_often():
    made, again = method("fed-plora"), method("fed-plora")
    drawn = {(c, n, p): made.selected(c, n, p, 2, CURRENT["q"]) for c in "ab" for n in range(1, 301) for p in "qv"}
    assert all(again.selected(c, n, p, 2, CURRENT["q"]) == own for (c, n, p), own in drawn.items())
    assert len({tuple(own) for own in drawn.values()}) == R * (R - 1) // 2  # all pairs
    often = Counter(j for own in drawn.values() for j in own)
    assert all(abs(often[j] / len(drawn) - 2 / R) < 0.05 for j in range(R))
    assert made.selected("a", 1, "q", R, CURRENT["q"]) == list(range(R))


def test_what_is_trained_and_what_is_not_are_the_whole():
    own = {"q": [0, 2, 3]}
    mine, rest = picked(CURRENT, own)["q"], others(CURRENT, own)["q"]
    torch.testing.assert_close(mine.B @ mine.A + rest.B @ rest.A, CURRENT["q"].B @ CURRENT["q"].A)
    assert all(torch.equal(t, u) for t, u in zip(as_run(CURRENT, own, {"q": mine})["q"], CURRENT["q"], strict=True))
    assert others(CURRENT, {"q": range(R)}) == {}
