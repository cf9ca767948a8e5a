"""What an attack or a comparison found: a number with its 95 % interval and what to hold it against."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from atlas_cli.seeding import numpy_generator

LEVEL = 0.95
MIN_EXAMPLES = 20  # of which an interval is made; with fewer its ends would say as much as the figure
RESAMPLES = 1000


class Inapplicable(Exception):
    """An attack has nothing to work on here; the message says why."""


@dataclass(frozen=True)
class Figure:
    """How well an attack does.

    Attributes:
        attack: its name; ``what``: the number in words.
        channel: what is listened to; ``knows``: the adversary's knowledge besides it.
        value, low, high: the number and its 95 % interval.
        chance: of a guess that uses nothing; ``best``: of an attack that recovers all.
        floor: of an attacker that has not listened, but knows what is common; None where that is chance.
        examples: texts, records or clients that the interval is over.
        note: anything that a reader must know.
    """

    attack: str
    what: str
    channel: str
    knows: str
    value: float
    low: float
    high: float
    chance: float
    best: float
    examples: int
    floor: float | None = None
    note: str = ""

    def record(self) -> dict[str, Any]:
        """As JSON, with what it takes off the privacy score."""
        return {**asdict(self), "advantage": self.advantage}

    @property
    def advantage(self) -> float:
        """(upper end - chance) / (best - chance) within 0 and 1: the share of the possible that may be recovered."""
        return min(1.0, max(0.0, (self.high - self.chance) / (self.best - self.chance)))


def privacy_score(figures: Sequence[Figure]) -> float | None:
    """1 - the worst attack's advantage, never a mean: an attack more can only lower it. None: nothing was attacked."""
    return min((1.0 - figure.advantage for figure in figures), default=None)


def require_examples(count: int, what: str = "examples", least: int = MIN_EXAMPLES) -> None:
    """Refuse to make an interval of too few.

    Raises:
        Inapplicable: says how many there must be.
    """
    if count < least:
        raise Inapplicable(f"too few for an interval: {count} {what}, and {least} are needed")


def clopper_pearson(hits: int, count: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact interval of a binomial share (Clopper and Pearson 1934)."""
    tail = (1 - level) / 2

    def solve(too_low: Callable[[float], bool]) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if too_low(middle) else (low, middle)
        return (low + high) / 2

    low = 0.0 if hits == 0 else solve(lambda p: _at_least(hits, count, p) < tail)
    high = 1.0 if hits == count else solve(lambda p: 1 - _at_least(hits + 1, count, p) > tail)
    return low, high


def share_interval(hits: Sequence[float], counts: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Sum of hits / sum of counts with its interval, over examples that each hold several trials (tokens of a text).

    Bootstrap by example, as tokens of one text are not independent. Where all trials end alike a resample cannot
    differ; then the exact interval for as many trials as there are examples.

    Raises:
        Inapplicable: too few examples.
    """
    require_examples(len(hits))
    h, n = np.asarray(hits, float), np.asarray(counts, float)
    value = float(h.sum() / n.sum())
    if value in (0.0, 1.0):
        return (value, *clopper_pearson(round(value * len(h)), len(h)))
    rows = numpy_generator(seed, "bootstrap").integers(0, len(h), (RESAMPLES, len(h)))
    return (value, *_ends(h[rows].sum(1) / n[rows].sum(1)))


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Chance that a positive scores above a negative, ties counted half (Mann and Whitney)."""
    merged = np.concatenate([positive, negative])
    _, inverse, counts = np.unique(merged, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n = len(positive)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * len(negative)))


def true_positives(positive: np.ndarray, negative: np.ndarray, rate: float) -> float:
    """Share of positives above the lowest threshold that at most ``rate`` of negatives are above."""
    allowed = math.floor(rate * len(negative))
    threshold = np.sort(negative)[::-1][allowed]
    return float((positive > threshold).mean())


def at_few_false_alarms(positive: np.ndarray, negative: np.ndarray) -> str:
    """What an attack finds that must hardly ever be wrong, in words (Carlini et al., 2112.03570, section 4)."""
    share = {rate: true_positives(positive, negative, rate) for rate in (0.01, 0.001)}
    found = " and ".join(f"{value:.3f} of members at {100 * rate:g} %" for rate, value in share.items())
    allowed = " and ".join(str(math.floor(rate * len(negative))) for rate in share)
    return f"finds {found} false alarms ({allowed} of {len(negative)} others)"


def auc_interval(positive: np.ndarray, negative: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """The AUC with its interval: bootstrap of both samples; where they do not overlap, of pairs by the exact interval.

    Raises:
        Inapplicable: too few of either.
    """
    fewer = min(len(positive), len(negative))
    require_examples(fewer)
    value = auc(positive, negative)
    if value in (0.0, 1.0):
        return (value, *clopper_pearson(round(value * fewer), fewer))
    generator = numpy_generator(seed, "bootstrap-auc")
    found = [
        auc(generator.choice(positive, len(positive)), generator.choice(negative, len(negative)))
        for _ in range(RESAMPLES)
    ]
    return (value, *_ends(np.array(found)))


def _ends(found: np.ndarray) -> tuple[float, float]:
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(found, [tail, 100 - tail])
    return float(low), float(high)


def _at_least(hits: int, count: int, share: float) -> float:
    """P(X >= hits) of a binomial."""
    if share in (0.0, 1.0) or hits <= 0:
        return float(share == 1.0 or hits <= 0)
    k = np.arange(hits, count + 1)
    logs = np.array([math.lgamma(count + 1) - math.lgamma(i + 1) - math.lgamma(count - i + 1) for i in k])
    terms = logs + k * math.log(share) + (count - k) * math.log1p(-share)
    return float(np.exp(terms).sum()) if len(terms) else 0.0
