"""Epsilon against published values, and against curves computed here in other ways."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from atlas_cli.config.schema.privacy import LEAST_NOISE
from atlas_cli.errors import ConfigError
from atlas_cli.extras import install_command
from atlas_cli.privacy.account import accounting
from atlas_cli.privacy.account.accounting import calibrate, gaussian_epsilon, keep_probability, sampled_epsilon
from atlas_cli.privacy.account.events import Event, composed_epsilon, together


def exact_delta(epsilon, multiplier):
    """Balle and Wang, 1805.06530, Theorem 8, sensitivity 1."""
    return norm.cdf(1 / (2 * multiplier) - epsilon * multiplier) - math.exp(epsilon) * norm.cdf(
        -1 / (2 * multiplier) - epsilon * multiplier
    )


def renyi_epsilon(multiplier, rate, steps, delta):
    """The sampled Gaussian's Renyi divergence at whole orders (Mironov et al., 1908.10530, section 3.3), converted by
    Canonne et al., 2004.00010, Proposition 12; and as first published, 1702.07476, Proposition 3."""
    best = first = math.inf
    for order in range(2, 200):
        k = np.arange(order + 1)
        logs = np.array([math.lgamma(order + 1) - math.lgamma(i + 1) - math.lgamma(order - i + 1) for i in k])
        terms = logs + k * math.log(rate) + (order - k) * math.log1p(-rate) + k * (k - 1) / (2 * multiplier**2)
        total = steps * np.logaddexp.reduce(terms) / (order - 1)
        first = min(first, total - math.log(delta) / (order - 1))
        best = min(best, total + math.log1p(-1 / order) - math.log(delta * order) / (order - 1))
    return best, first


def sampled_delta(epsilon, multiplier, rate):
    """Of one step, by integrating the hockey-stick divergence on a grid, removal and addition."""
    x = np.linspace(-40 * multiplier, 40 * multiplier + 1, 2_000_001)
    without = norm.pdf(x, 0, multiplier)
    with_one = (1 - rate) * without + rate * norm.pdf(x, 1, multiplier)
    gaps = (with_one - math.exp(epsilon) * without, without - math.exp(epsilon) * with_one)
    return max(np.trapezoid(np.maximum(gap, 0), x) for gap in gaps)


def test_one_gaussian_is_exact():
    assert gaussian_epsilon(3.7306, 1, 1e-5) == pytest.approx(1.0, abs=1e-4)  # the classical bound needs 4.84
    for multiplier in (0.5, 1.0, 5.0):
        epsilon = brentq(lambda e, z=multiplier: exact_delta(e, z) - 1e-5, 0, 100)
        assert gaussian_epsilon(multiplier, 1, 1e-5) == pytest.approx(epsilon, rel=1e-4)


def test_repeated_gaussians_are_one_with_less_noise():
    assert gaussian_epsilon(6.0, 9, 1e-5) == gaussian_epsilon(2.0, 1, 1e-5)
    assert gaussian_epsilon(1.0, 0, 1e-5) == 0 and gaussian_epsilon(0.0, 1, 1e-5) == math.inf


@pytest.mark.parametrize("multiplier", [1e-12, 1e-150])
def test_next_to_no_noise_has_an_enormous_epsilon(multiplier):
    assert gaussian_epsilon(multiplier, 1, 1e-5) == pytest.approx(0.5 / multiplier**2, rel=1e-4)


@pytest.mark.parametrize(("rate", "steps"), [(1e-6, 3), (0.001, 100_000), (0.9, 1)])
def test_the_least_noise_that_is_accepted_has_an_epsilon_with_samples(rate, steps):
    found = sampled_epsilon(LEAST_NOISE, rate, steps, 1e-5)
    assert 0 <= found <= gaussian_epsilon(LEAST_NOISE, steps, 1e-5) and (found > 1e5 or rate == 1e-6)


@pytest.mark.parametrize("times", [1, 10**9])
def test_the_smallest_target_that_is_accepted_is_met(times):
    found = calibrate(1e-3, lambda z: gaussian_epsilon(z, times, 1e-5), "privacy.activations.epsilon")
    assert gaussian_epsilon(found, times, 1e-5) <= 1e-3


def test_dp_sgd_on_mnist_as_published():
    """60 epochs of 60,000 in batches of 256, noise 1.1: 2.92 in TensorFlow Privacy (fractional orders), 2.60 later."""
    epsilon = sampled_epsilon(1.1, 256 / 60000, 60 * 60000 // 256, 1e-5)
    assert epsilon == pytest.approx(2.38, abs=0.02)  # privacy loss distributions are tighter
    renyi = renyi_epsilon(1.1, 256 / 60000, 60 * 60000 // 256, 1e-5)
    assert epsilon < renyi[0] and renyi == pytest.approx((2.60, 3.01), abs=0.02)


@pytest.mark.parametrize(("multiplier", "rate"), [(1.0, 0.1), (0.7, 0.5), (2.0, 0.02)])
def test_one_sampled_step_against_integration(multiplier, rate):
    assert sampled_delta(sampled_epsilon(multiplier, rate, 1, 1e-5), multiplier, rate) == pytest.approx(1e-5, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("multiplier", "rate", "steps", "exact"),
    [
        (1.0, 0.001, 20_000, 0.686306),  # a grid of 1e-3 gives 0.7214
        (1.0, 0.0005, 100_000, 0.763527),  # and 0.9156
        (20.0, 0.01, 100_000, 0.561830),  # and 0.7417
        (0.1, 0.01, 10, 160.1812),  # without sampling 633.9
    ],
)
def test_the_grid_raises_epsilon_by_less_than_is_tolerated(multiplier, rate, steps, exact):
    """Against a grid of 1e-5, for the last of 1e-3, by which epsilon is raised by 5e-5 of it at most."""
    found = sampled_epsilon(multiplier, rate, steps, 1e-5)
    assert exact * (1 - 1e-4) <= found <= exact * (1 + accounting.TOLERANCE)


@pytest.mark.parametrize(("multiplier", "rate", "steps"), [(1.0, 0.0005, 100_000), (20.0, 0.01, 100_000)])
def test_many_rare_steps_against_their_central_limit(multiplier, rate, steps):
    """mu-Gaussian privacy with mu = q sqrt(k (exp(1 / z^2) - 1)) (Bu et al., 1911.11607): no grid, close for many."""
    mu = rate * math.sqrt(steps * math.expm1(1 / multiplier**2))
    limit = brentq(lambda e: exact_delta(e, 1 / mu) - 1e-5, 0, 100)
    assert sampled_epsilon(multiplier, rate, steps, 1e-5) == pytest.approx(limit, rel=0.02)


@settings(max_examples=8, deadline=None)
@given(st.floats(0.6, 4), st.floats(0.01, 0.6), st.integers(1, 60))
def test_sampled_steps_lie_below_renyi_and_below_unsampled_steps(multiplier, rate, steps):
    epsilon = sampled_epsilon(multiplier, rate, steps, 1e-5)
    assert (
        0 < epsilon <= min(renyi_epsilon(multiplier, rate, steps, 1e-5)[0], gaussian_epsilon(multiplier, steps, 1e-5))
    )
    assert epsilon < sampled_epsilon(multiplier, rate, steps + 40, 1e-5)


@pytest.mark.parametrize(
    ("multiplier", "rate", "steps", "prv", "renyi"),
    [
        (1.0, 0.1, 100, 7.0571, 7.8993),
        (0.7, 0.5, 20, 26.583, 28.9976),
        (2.0, 0.02, 1000, 1.3398, 1.4585),
        (1.1, 256 / 60_000, 14_063, 2.3918, 2.5967),
    ],
)
def test_against_another_library(multiplier, rate, steps, prv, renyi):
    """What Opacus 1.6.0 says at delta 1e-5: PRVAccountant (an upper bound, 0.01 above) and RDPAccountant (looser)."""
    found = sampled_epsilon(multiplier, rate, steps, 1e-5)
    assert prv - 0.02 < found <= prv < renyi


# noise multiplier, sampling rate (1: all), steps; delta is 1e-5
GRID = {
    ((0.7, 1e-4, 1),): 0.00079,
    ((0.7, 1e-4, 100),): 0.01409,
    ((0.7, 1e-3, 1),): 0.04062,
    ((0.7, 1e-3, 3_000),): 0.83713,
    ((0.7, 1e-3, 30_000),): 1.98140,
    ((0.7, 0.01, 1),): 0.85168,
    ((0.7, 0.01, 3_000),): 7.52707,
    ((0.7, 0.01, 30_000),): 28.08284,
    ((0.7, 0.1, 1),): 3.56768,
    ((1.0, 0.01, 100),): 0.71804,
    ((3.0, 0.01, 3_000),): 0.68511,
    ((3.0, 0.1, 100),): 1.38785,
    ((3.0, 1e-3, 30_000),): 0.19376,
    ((1.0, 0.1, 10),): 2.85459,
    ((1.0, 0.01, 500), (4.0, 1, 10)): 3.62293,
    ((0.8, 1e-3, 3_000), (1.5, 0.05, 200), (10.0, 1, 30)): 3.35172,
    ((2.0, 0.2, 40), (0.7, 0.005, 100)): 3.19614,
    ((1.0, 1e-4, 20_000), (6.0, 1, 4)): 1.27326,
}
DEAR = {((0.7, 1e-6, 30_000),): 0.00073, ((1.0, 1e-4, 30_000),): 0.06881}


@pytest.mark.parametrize(
    ("uses", "estimate"), [*GRID.items(), *(pytest.param(*each, marks=pytest.mark.slow) for each in DEAR.items())]
)
def test_a_grid_of_uses_against_a_second_library(uses, estimate):
    """What prv-accountant 0.2.0 (Gopi et al., 2106.02848) estimates and proves to 0.01: tiny rates, thousands of steps,
    and several mechanisms on one channel."""
    events = together(
        Event("gaussian", times, noise) if rate == 1 else Event("sampled-gaussian", times, noise, rate)
        for noise, rate, times in uses
    )
    found = composed_epsilon(events, 1e-5)
    assert -1e-3 < found - estimate < 1e-3 + accounting.TOLERANCE * estimate


@pytest.mark.parametrize("target", [0.05, 1.0, 30.0])
def test_a_target_is_met_and_barely(target):
    found = calibrate(target, lambda z: gaussian_epsilon(z, 10, 1e-5), "privacy.updates.epsilon")
    assert gaussian_epsilon(found, 10, 1e-5) <= target < gaussian_epsilon(found / 1.002, 10, 1e-5)


def test_a_target_out_of_reach_names_its_key():
    with pytest.raises(ConfigError, match=r"^privacy.updates.epsilon: no noise multiplier"):
        calibrate(1.0, lambda z: 2.0, "privacy.updates.epsilon")


def test_randomised_response_has_its_epsilon():
    for epsilon, classes in ((0.5, 2), (3.0, 6)):
        keep = keep_probability(epsilon, classes)
        assert math.log(keep / ((1 - keep) / (classes - 1))) == pytest.approx(epsilon)


def test_without_the_accountant_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(accounting, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=f"^privacy.updates: .*: {re.escape(install_command('privacy'))}$"):
        accounting.require_accounting("privacy.updates")
