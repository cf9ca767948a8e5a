"""How sure a figure is, and whether two models differ on the same test part: intervals of 95 %, and paired tests.

A figure is a function of the numbers of examples, drawn with repetition or all of them once: so each resample scores
whole examples, and two models are scored on the same ones.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atlas_cli.seeding import numpy_generator

RESAMPLES = 10_000
Z = 1.959964  # of a normal distribution, 95 % lie within so many standard deviations

Indices = NDArray[np.int64]
Figure = Callable[[Indices], float]
Ends = tuple[float, float]


class McNemar(NamedTuple):
    """Examples that one of two models alone gets right, and how likely a split as uneven is if neither is better."""

    first_alone: int
    second_alone: int
    p: float


class Difference(NamedTuple):
    """A figure of the second model less that of the first, on the same examples.

    Attributes:
        interval: of 95 %, by percentiles of resamples; None where ``bootstrap`` gives none.
        p: twice the share of resamples on the rarer side of 0 (at most 1), each share with one more resample counted
            than there was, and never below the least p of any test of signs on so many examples, 2 to the power of
            1 - n; None where the difference is defined on too few resamples.
    """

    value: float
    interval: Ends | None
    p: float | None


def wilson(share: float, cases: int) -> Ends:
    """Wilson's interval of a share (1927), which is right near 0 and 1 and for few cases, too."""
    square = Z * Z
    centre = (share + square / (2 * cases)) / (1 + square / cases)
    spread = Z / (1 + square / cases) * (share * (1 - share) / cases + square / (4 * cases * cases)) ** 0.5
    return max(0.0, centre - spread), min(1.0, centre + spread)


def over_seeds(values: Sequence[float]) -> Ends | None:
    """Student's 95 % interval of a mean over independent runs; None for fewer than two, or where all are equal."""
    if len(values) < 2 or (sd := statistics.stdev(values)) == 0:
        return None
    mean, reach = statistics.fmean(values), student(len(values) - 1) * sd / len(values) ** 0.5
    return mean - reach, mean + reach


def student(degrees: int, share: float = 0.95) -> float:
    """The t within which a share of Student's distribution lies, by halving (Abramowitz and Stegun 26.7.3, 26.7.4)."""

    def within(t: float) -> float:
        angle = math.atan(t / degrees**0.5)
        odd, term, total = degrees % 2, 1.0, 0.0
        for k in range(odd, degrees - 1, 2):
            total += term * math.cos(angle) ** k
            term *= (k + 1) / (k + 2)
        return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total

    low, high = 0.0, 1.0
    while within(high) < share:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < share else (low, middle)
    return high


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """McNemar's exact test, two-sided: which examples each model gets right, in the same order."""
    pairs = list(zip(first, second, strict=True))
    alone = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    differ = sum(alone)
    rarer = sum(math.comb(differ, k) for k in range(min(alone) + 1))
    return McNemar(*alone, p=min(1.0, 2 * rarer / 2**differ))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979): each below 0.05 keeps the chance of any false finding among all below 5 %."""
    order = sorted(range(len(ps)), key=ps.__getitem__)
    adjusted, least = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = least
    return adjusted


def bootstrap(figure: Figure, examples: int, seed: int = 0, resamples: int = RESAMPLES) -> Ends | None:
    """The percentile interval of a figure over examples (Efron and Tibshirani 1993, chapter 13).

    The same seed draws the same resamples for every figure of as many examples. Resamples on which the figure is not
    defined are left out; None where these are more than half, or where all others are equal: examples that do not vary
    say nothing of how far others would.
    """
    return _ends(_resampled(figure, examples, seed, resamples))


def paired_bootstrap(
    first: Figure, second: Figure, examples: int, seed: int = 0, resamples: int = RESAMPLES
) -> Difference:
    """The difference of a figure between two models, resampled as ``bootstrap`` does, both on the same examples."""

    def difference(indices: Indices) -> float:
        return second(indices) - first(indices)

    values, whole = _resampled(difference, examples, seed, resamples), difference(np.arange(examples))
    found = values[np.isfinite(values)]
    if 2 * len(found) < len(values):
        return Difference(whole, None, None)
    rarer = min(int((found <= 0).sum()), int((found >= 0).sum()))
    p = max(2 * (rarer + 1) / (len(found) + 1), 0.5 ** (examples - 1))
    return Difference(whole, _ends(values), min(1.0, p))


def ratio(values: ArrayLike, weights: ArrayLike | None = None) -> Figure:
    """The sum of a value over examples, by the sum of a weight: a mean, where every weight is 1."""
    values_E = np.asarray(values, dtype=np.float64)
    weights_E = np.ones(len(values_E)) if weights is None else np.asarray(weights, dtype=np.float64)

    def figure(indices: Indices) -> float:
        total = weights_E[indices].sum()
        return float(values_E[indices].sum() / total) if total else math.nan

    return figure


def macro_f1(labels: Sequence[str], predicted: Sequence[str]) -> Figure:
    """The mean F1 of the classes that occur among labels or predictions."""

    def of_counts(right_C: Indices, labels_C: Indices, predicted_C: Indices) -> float:
        occurs_C = labels_C + predicted_C
        seen_C = occurs_C > 0
        return float((2 * right_C[seen_C] / occurs_C[seen_C]).mean())

    return _of_counts(of_counts, labels, predicted)


def matthews(labels: Sequence[str], predicted: Sequence[str]) -> Figure:
    """Matthews' correlation of any number of classes; 0 where all labels, or all predictions, are one class."""

    def of_counts(right_C: Indices, labels_C: Indices, predicted_C: Indices) -> float:
        count = int(labels_C.sum())
        together = count * int(right_C.sum()) - int(labels_C @ predicted_C)
        spread = (count**2 - int(labels_C @ labels_C)) * (count**2 - int(predicted_C @ predicted_C))
        return together / math.sqrt(spread) if spread else 0.0

    return _of_counts(of_counts, labels, predicted)


def _of_counts(
    of_counts: Callable[[Indices, Indices, Indices], float], labels: Sequence[str], predicted: Sequence[str]
) -> Figure:
    """A figure of how often each class was predicted rightly, is a label, and was predicted."""
    _, numbers = np.unique([*labels, *predicted], return_inverse=True)
    labels_E, predicted_E = np.split(numbers, [len(labels)])
    classes = int(numbers.max(initial=0)) + 1

    def figure(indices: Indices) -> float:
        label, guess = labels_E[indices], predicted_E[indices]
        right = label[label == guess]
        return of_counts(*(np.bincount(each, minlength=classes) for each in (right, label, guess)))

    return figure


def correlation(labels: ArrayLike, predicted: ArrayLike, *, ranked: bool = False) -> Figure:
    """Pearson's correlation; of ranks, Spearman's. 0 where all labels, or all predictions, are equal."""
    labels_E, predicted_E = np.asarray(labels, dtype=np.float64), np.asarray(predicted, dtype=np.float64)

    def figure(indices: Indices) -> float:
        pair = [each[indices] for each in (labels_E, predicted_E)]
        if any(each.min() == each.max() for each in pair):
            return 0.0
        first, second = (_centred(_ranks(each) if ranked else each) for each in pair)
        return float((first * second).sum() / math.sqrt((first * first).sum() * (second * second).sum()))

    return figure


def _centred(values_E: NDArray[np.float64]) -> NDArray[np.float64]:
    return values_E - values_E.mean()


def _ranks(values_E: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0; equal values share the mean of theirs."""
    _, place, counts = np.unique(values_E, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[place]


def _resampled(figure: Figure, examples: int, seed: int, resamples: int) -> NDArray[np.float64]:
    drawn = numpy_generator(seed, "bootstrap", examples)
    return np.array([figure(drawn.integers(examples, size=examples)) for _ in range(resamples)])


def _ends(values: NDArray[np.float64]) -> Ends | None:
    found = values[np.isfinite(values)]
    if 2 * len(found) < len(values) or np.ptp(found) == 0:
        return None
    low, high = np.percentile(found, (2.5, 97.5))
    return float(low), float(high)
