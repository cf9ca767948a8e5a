"""Events of one unit, composed: against other ways to count the same, for one run and for several."""

import math

import pytest
from scipy.stats import binom

from atlas_cli.privacy.account.accounting import gaussian_epsilon, sampled_epsilon
from atlas_cli.privacy.account.events import Event, composed_epsilon, together

DELTA = 1e-5


def test_gaussians_of_any_noise_are_one():
    """1 / z^2 adds up: 4 uses at 2 and 9 at 3 are 2 at 1, and no sum of epsilons."""
    events = together([Event("gaussian", 4, 2.0), Event("gaussian", 9, 3.0)])
    assert composed_epsilon(events, DELTA) == pytest.approx(gaussian_epsilon(1.0, 2, DELTA), rel=1e-9)
    apart = gaussian_epsilon(2.0, 4, DELTA) + gaussian_epsilon(3.0, 9, DELTA)
    assert composed_epsilon(events, DELTA) < 0.8 * apart


def test_what_is_split_over_runs_is_what_is_done_in_one():
    halves = together([Event("sampled-gaussian", 30, 1.0, 0.05)] * 2)
    assert composed_epsilon(halves, DELTA) == sampled_epsilon(1.0, 0.05, 60, DELTA)
    assert together([Event("gaussian", 0, 1.0)]) == () and composed_epsilon((), DELTA) == 0


def test_a_sampled_and_a_whole_gaussian_lie_between_each_alone_and_both_whole():
    both = together([Event("sampled-gaussian", 20, 2.0, 0.1), Event("gaussian", 2, 4.0)])
    found = composed_epsilon(both, DELTA)
    alone = max(composed_epsilon((event,), DELTA) for event in both)
    assert alone < found < gaussian_epsilon(1.0, 20 / 4 + 2 / 16, DELTA)
    assert found < sum(composed_epsilon((event,), DELTA) for event in both)
    # a rate next to 1 is next to no sampling
    near = (Event("gaussian", 2, 4.0), Event("sampled-gaussian", 20, 2.0, 0.99999))
    assert composed_epsilon(near, DELTA) == pytest.approx(gaussian_epsilon(1.0, 20 / 4 + 2 / 16, DELTA), rel=3e-3)


@pytest.mark.parametrize(("epsilon", "times"), [(0.5, 8), (2.0, 3)])
def test_randomised_response_against_its_binomial(epsilon, times):
    """k answers of two tell (kept - turned) epsilons: delta is a sum over a binomial."""

    def delta_at(bound):
        keep = 1 / (1 + math.exp(-epsilon))
        gaps = (
            binom.pmf(kept, times, keep) - math.exp(bound) * binom.pmf(kept, times, 1 - keep)
            for kept in range(times + 1)
        )
        return sum(max(0.0, gap) for gap in gaps)

    found = composed_epsilon((Event("randomised-response", times, epsilon),), DELTA)
    assert found <= times * epsilon and delta_at(found) <= DELTA < delta_at(found - 0.02 * found)
    assert composed_epsilon((Event("randomised-response", 1, epsilon),), DELTA) == epsilon


def test_what_nothing_bounds_has_no_epsilon():
    assert composed_epsilon((Event("gaussian", 1, 1.0), Event("none", 1)), DELTA) == math.inf
    assert composed_epsilon((Event("gaussian", 1, 0.0),), DELTA) == math.inf
    with pytest.raises(ValueError, match="different channels"):
        composed_epsilon((Event("gaussian", 1, 1.0), Event("randomised-response", 1, 1.0)), DELTA)
