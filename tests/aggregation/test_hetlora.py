"""Self-pruning of ranks; the merge itself is tested with those of all methods."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.merging import factors, method

from atlas_cli.aggregation.contract import Factors
from atlas_cli.aggregation.methods.hetlora import Method, kept_rank

HALF = method("hetlora", prune=0.5, penalty=2.0)


def scaled(f, kept, factor):
    """The same with B times ``factor`` from component ``kept`` on."""
    return Factors(f.A, torch.cat([f.B[:, :kept], factor * f.B[:, kept:]], 1))


def test_a_tail_that_fell_in_the_round_is_dropped_and_no_other():
    sent = {path: factors(6, 8, 9, i) for i, path in enumerate("abc")}
    trained = {"a": scaled(sent["a"], 3, 0.9), "b": scaled(sent["b"], 3, 1.1), "c": scaled(sent["c"], 0, 0.9)}
    trained["c"] = scaled(trained["c"], 3, 1 / 0.9)  # only the head fell
    assert HALF.pruned(sent, trained) == {"a": 3, "b": 6, "c": 6}
    assert method("hetlora").pruned(sent, trained) == {"a": 6, "b": 6, "c": 6}


def test_an_untrained_tail_is_kept():
    """B = 0 at the start: its product can only grow, and one that stays has not fallen."""
    start = {"a": Factors(torch.randn(4, 6), torch.zeros(5, 4))}
    assert HALF.pruned(start, start) == {"a": 4}


@given(st.integers(1, 64), st.floats(0.01, 0.99))
def test_the_rank_that_is_kept(rank, gamma):
    kept = kept_rank(rank, gamma)
    assert 1 <= kept <= rank
    assert gamma * rank - 1e-8 <= kept < gamma * rank + 1


def test_whole_products_are_not_rounded_up():
    assert kept_rank(100, 0.07) == 7  # 0.07 * 100 is 7.000000000000001


def test_the_penalty_is_the_norm_product_of_tails_and_has_its_gradient():
    f = factors(4, 6, 5, 0)
    A, B = f.A.clone().requires_grad_(), f.B.clone().requires_grad_()
    loss = HALF.client_term().penalty({"a": Factors(A, B), "b": Factors(f.A, f.B)})
    product = f.B[:, 2:].norm() * f.A[2:].norm()
    torch.testing.assert_close(loss, 2.0 * 2 * product)
    loss.backward()
    assert not B.grad[:, :2].any() and not A.grad[:2].any()
    torch.testing.assert_close(B.grad[:, 2:], 2.0 * f.A[2:].norm() * f.B[:, 2:] / f.B[:, 2:].norm())


@pytest.mark.parametrize("rank", [1, 4])
def test_the_penalty_at_the_start_has_no_gradient_that_is_not_finite(rank):
    """B = 0, where a norm has no derivative; rank 1 has no tail."""
    A, B = torch.randn(rank, 6, requires_grad=True), torch.zeros(5, rank, requires_grad=True)
    HALF.client_term().penalty({"a": Factors(A, B)}).backward()
    assert A.grad.isfinite().all() and B.grad.isfinite().all()
    assert method("hetlora").client_term() is None


@pytest.mark.parametrize(
    "options", [{"prune": 0.0}, {"prune": 1.0}, {"penalty": -1.0}, {"penalty": 0.1}, {"gamma": 0.9}]
)
def test_options_that_mean_nothing_are_errors(options):
    with pytest.raises(ValidationError):
        Method.Options.model_validate(options)
