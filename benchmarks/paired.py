"""Arithmetic of comparisons over seeds: what two methods differ by in the same seed, and what a target cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Interval(NamedTuple):
    """A mean over seeds, and half the width of its interval of 95 %, by Student's t; None for one seed."""

    mean: float
    half: float | None

    def excludes_zero(self) -> bool:
        """Whether the sign of the mean is seen."""
        return self.half is not None and abs(self.mean) > self.half


class Scored(NamedTuple):
    """An evaluated round of a run: its score, and the bytes up and down until then without those of the set-up."""

    round: int
    score: float
    spent: int


def paired(values: Sequence[float], against: Sequence[float]) -> Interval:
    """The mean difference of values of the same seeds, in one order."""
    differences = [value - other for value, other in zip(values, against, strict=True)]
    mean, n = statistics.fmean(differences), len(differences)
    return Interval(mean, t_95(n - 1) * statistics.stdev(differences) / n**0.5 if n > 1 else None)


def first_at(target: float, rounds: Sequence[Scored]) -> Scored | None:
    """The first evaluated round with this score; None if there is none."""
    return next((each for each in rounds if each.score >= target), None)


def t_95(degrees: int) -> float:
    """What a Student's t of so many degrees of freedom stays within, either way, with a chance of 95 %."""
    low, high = 1.0, 13.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, degrees) < 0.95 else (low, middle)
    return high


def within(t: float, degrees: int) -> float:
    """The chance that a Student's t lies between -t and t (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / degrees**0.5)
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    terms = [term]
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= math.cos(angle) ** 2 * (k - 1) / k
        terms.append(term)
    if odd:
        return 2 / math.pi * (angle + (math.sin(angle) * sum(terms) if degrees > 1 else 0))
    return math.sin(angle) * sum(terms)
