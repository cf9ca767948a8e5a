"""Epsilon of what a channel tells, at a given delta, by dp-accounting.

Gaussian mechanism: noise of standard deviation (multiplier * sensitivity) on a sum; exact (Balle and Wang, 1805.06530,
Theorem 8). Poisson-sampled (DP-SGD, Abadi et al., 1607.00133): the sum of a sample that holds each example with
probability q on its own, neighbours by adding or removing one; an upper bound, by composed privacy loss distributions
(Koskela et al., 1906.03049; Doroshenko et al., 2207.04380). There is no amplification where
batches or cohorts have a fixed size.

A channel without a mechanism has epsilon ``math.inf``, one on which nothing is sent 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from atlas_cli.errors import ConfigError
from atlas_cli.extras import install_command

CHANNELS = ("updates", "activations", "labels", "fingerprints")
MAX_MULTIPLIER = 1e9
TOLERANCE = 2e-3  # share of epsilon by which the grid of privacy losses may raise it
_ENORMOUS = 1e5  # an epsilon above this promises nothing, and may be raised by more
_LEAST = 0.1  # an epsilon below this has its grid, and is raised by 0.0005 at most: finer ones take minutes


@cache
def gaussian_epsilon(multiplier: float, times: float, delta: float) -> float:
    """Epsilon of ``times`` adaptive uses of a Gaussian mechanism: exactly that of one use at multiplier / sqrt(times).

    Args:
        multiplier: standard deviation of the noise divided by the L2 sensitivity.
        times: uses on one unit; a use with n times the squared sensitivity counts n times.
    """
    if times == 0:
        return 0.0
    if multiplier == 0:
        return math.inf
    from dp_accounting import get_epsilon_gaussian

    with np.errstate(all="ignore"):  # with next to no noise the smaller of two terms is 0, as it should be
        return float(get_epsilon_gaussian(multiplier / math.sqrt(times), delta))


@cache
def sampled_epsilon(multiplier: float, rate: float, steps: int, delta: float) -> float:
    """Epsilon of ``steps`` adaptive uses of a Gaussian mechanism, each on a Poisson sample at ``rate``.

    Losses are rounded up to a grid, so that this is an upper bound; the grid is made finer until it raises epsilon by
    ``TOLERANCE`` at most.
    """
    epsilon = gaussian_epsilon(multiplier, steps, delta)  # sampling can only make it smaller
    return epsilon if rate >= 1 else on_fine_grid([(dp_event_of(multiplier, rate), steps)], epsilon, delta)


def dp_event_of(multiplier: float, rate: float) -> Any:
    """One use of a Gaussian mechanism on a Poisson sample, as dp-accounting has it."""
    from dp_accounting import dp_event

    return dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(multiplier))


def on_fine_grid(events: Sequence[tuple[Any, int]], epsilon: float, delta: float, replace_one: bool = False) -> float:
    """Epsilon of dp-accounting's events, each with how often it is used, on a grid that is fine enough for all.

    Args:
        epsilon: an upper bound, with which the grid is chosen first.
        replace_one: neighbours differ in the value of one unit, not in its presence.
    """
    steps = sum(times for _, times in events)
    while 0 < epsilon < math.inf:
        interval = _interval(epsilon, steps, delta)
        finer = min(epsilon, _on_grid(events, delta, interval, replace_one))
        # no loss is rounded by more than an interval
        raised = steps * min(interval**2 * _spread(finer, delta), interval)
        if raised <= TOLERANCE * max(finer, _LEAST) or finer > _ENORMOUS:
            return finer
        epsilon = finer
    return epsilon


def _on_grid(events: Sequence[tuple[Any, int]], delta: float, interval: float, replace_one: bool) -> float:
    from dp_accounting import NeighboringRelation, dp_event
    from dp_accounting.pld.pld_privacy_accountant import PLDAccountant

    relation = NeighboringRelation.REPLACE_ONE if replace_one else NeighboringRelation.ADD_OR_REMOVE_ONE
    accountant = PLDAccountant(relation, interval)
    for event, times in events:
        if isinstance(event, dp_event.RandomizedResponseDpEvent):
            for _ in range(times):  # dp-accounting 0.6.0 leaves the count of this event out
                accountant.compose(event)
        else:
            accountant.compose(dp_event.SelfComposedDpEvent(event, times))
    return float(accountant.get_epsilon(delta))


def _interval(epsilon: float, steps: int, delta: float) -> float:
    """A grid that raises epsilon by half of what is allowed."""
    allowed = TOLERANCE * max(epsilon, _LEAST) / 2
    return max(min(0.01, math.sqrt(allowed / (steps * _spread(epsilon, delta)))), allowed / steps)


def _spread(epsilon: float, delta: float) -> float:
    """By how much a grid of interval h raises epsilon, by h^2 and step: two to three times of what is found.

    A loss between two points of the grid is split between them so that the mean of exp(-loss) stays (Doroshenko et
    al.). This adds at most h^2 / 4 to its variance and h^2 / 8 to its mean; the sum of all steps exceeds its mean by
    sqrt(2 ln(1 / delta)) deviations at epsilon.
    """
    return 1 / 8 + math.log(1 / delta) / (4 * max(epsilon, _LEAST))


def calibrate(target: float, epsilon_of: Callable[[float], float], key: str) -> float:
    """The smallest noise multiplier, to 0.1 %, whose epsilon is at most ``target``.

    Args:
        epsilon_of: epsilon as a decreasing function of the multiplier.
        key: the key of the target in the config, for errors.

    Raises:
        ConfigError: no multiplier up to ``MAX_MULTIPLIER`` is enough.
    """
    high = 1.0
    while epsilon_of(high) > target:
        high *= 2
        if high > MAX_MULTIPLIER:
            raise ConfigError(f"no noise multiplier up to {MAX_MULTIPLIER:g} gives epsilon {target:g}", key=key)
    low = high / 2
    while low > 1e-4 and epsilon_of(low) <= target:
        low, high = low / 2, low
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if epsilon_of(middle) <= target else (middle, high)
    return high


@cache
def pure_epsilon(epsilon: float, times: int, delta: float) -> float:
    """Epsilon of ``times`` adaptive uses of mechanisms that each have ``epsilon`` at delta 0.

    The least that holds for all such mechanisms (Kairouz et al., 1311.0776, Theorem 3.3), from above to 50 bits:

        delta(e) = sum_l C(k, l) exp((k - l) epsilon) / (1 + exp(epsilon))^k [1 - exp(e - (k - 2 l) epsilon)]_+
    """
    most = epsilon * times
    if most == 0:
        return 0.0
    wrong = np.arange(times // 2 + 1)  # uses of randomised response that answer against the truth
    factorials = np.concatenate([[0.0], np.log(np.arange(1, times + 1)).cumsum()])
    ways = factorials[times] - factorials[wrong] - factorials[times - wrong]
    losses = (times - 2 * wrong) * epsilon
    shares = np.exp(ways - wrong * epsilon - times * np.log1p(math.exp(-epsilon)))
    low, high = 0.0, most
    for _ in range(50):
        middle = (low + high) / 2
        met = float((shares * -np.expm1(np.minimum(middle - losses, 0.0))).sum()) <= delta
        low, high = (low, middle) if met else (middle, high)
    return high


def keep_probability(epsilon: float, classes: int) -> float:
    """The probability that k-ary randomised response keeps a label; others share the rest evenly (1407.1338)."""
    return 1 / (1 + (classes - 1) * math.exp(-epsilon))


def require_accounting(key: str) -> None:
    """Check that the accountant is installed.

    Raises:
        ConfigError: the optional dependency is not installed.
    """
    if find_spec("dp_accounting") is None:
        raise ConfigError(
            f"epsilon is computed by dp-accounting, which is not installed: {install_command('privacy')}", key=key
        )
