"""What one unit told on a channel, as a list of events, and the epsilon of all of them together.

Events of one run and of several are composed alike: Gaussian mechanisms to one with less noise, exactly; all else by
their privacy loss distributions (``accounting``). Epsilons are never added.

Randomised response counts as that of two classes, which tells the most of all mechanisms of its epsilon (Kairouz et
al., 1311.0776, Theorem 8).

"pure" is any mechanism of an epsilon at delta 0, on parts of one unit: tokens of a text. All uses together are bounded
by ``accounting.pure_epsilon``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import Literal, NamedTuple, get_args

from atlas_cli.privacy.account.accounting import (
    dp_event_of,
    gaussian_epsilon,
    on_fine_grid,
    pure_epsilon,
    sampled_epsilon,
)

Kind = Literal["gaussian", "sampled-gaussian", "randomised-response", "pure", "none"]
KINDS: tuple[str, ...] = get_args(Kind)


class Event(NamedTuple):
    """Uses of one mechanism on one unit.

    Attributes:
        kind: "none" is a channel on which something was sent without a mechanism.
        times: how often; a use with n times the squared sensitivity counts n times.
        noise: of Gaussian noise its multiplier; of randomised response and of pure mechanisms their epsilon.
        rate: of "sampled-gaussian", the probability that a sample holds the unit.
    """

    kind: Kind
    times: float
    noise: float = 0.0
    rate: float = 1.0


Events = tuple[Event, ...]


def together(events: Iterable[Event]) -> Events:
    """The same events in one order, those that differ in ``times`` alone added up; those of no use are left out."""
    found: dict[Event, float] = {}
    for event in events:
        key = event._replace(times=0)
        found[key] = found.get(key, 0) + event.times
    return tuple(sorted(key._replace(times=times) for key, times in found.items() if times))


@cache
def composed_epsilon(events: Events, delta: float) -> float:
    """Epsilon of all ``events`` on one unit; ``math.inf`` if nothing bounds one of them, 0 of none.

    Raises:
        ValueError: randomised response beside noise, whose units differ; or anything beside a pure mechanism.
    """
    if any(event.kind == "none" or (event.noise == 0 and event.kind != "pure") for event in events):
        return math.inf
    if len(events) == 1 and events[0].kind == "pure":
        return pure_epsilon(events[0].noise, int(events[0].times), delta)
    if any(event.kind == "pure" for event in events):
        raise ValueError("a text's tokens are replaced once, and no other mechanism acts on them")
    of = {kind: [event for event in events if event.kind == kind] for kind in KINDS}
    gaussian, sampled, responses = of["gaussian"], of["sampled-gaussian"], of["randomised-response"]
    if responses:
        if gaussian or sampled:
            raise ValueError("randomised response and noise are on different channels")
        return _responses_epsilon(responses, delta)
    if len(sampled) == 1 and not gaussian:
        return sampled_epsilon(sampled[0].noise, sampled[0].rate, int(sampled[0].times), delta)
    if len(gaussian) == 1 and not sampled:
        return gaussian_epsilon(gaussian[0].noise, gaussian[0].times, delta)
    steady = sum(event.times / event.noise**2 for event in (*gaussian, *(e for e in sampled if e.rate >= 1)))
    rare = [event for event in sampled if event.rate < 1]
    bound = gaussian_epsilon(1.0, steady + sum(event.times / event.noise**2 for event in rare), delta)
    if not rare:
        return bound
    from dp_accounting import dp_event

    one = [(dp_event.GaussianDpEvent(1 / math.sqrt(steady)), 1)] if steady else []
    return on_fine_grid([*one, *((dp_event_of(e.noise, e.rate), int(e.times)) for e in rare)], bound, delta)


def _responses_epsilon(events: list[Event], delta: float) -> float:
    pure = math.fsum(event.noise * event.times for event in events)
    if sum(event.times for event in events) == 1:
        return pure
    from dp_accounting import dp_event

    other = [2 / (1 + math.exp(event.noise)) for event in events]  # a random label of two instead, so often
    return on_fine_grid(
        [(dp_event.RandomizedResponseDpEvent(p, 2), int(e.times)) for p, e in zip(other, events, strict=True)],
        pure,
        delta,
        replace_one=True,
    )
