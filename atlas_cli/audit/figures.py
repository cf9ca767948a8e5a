"""Results of attacks and comparisons: a number, its 95 % interval and the values to compare it with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from atlas_cli.audit.epsilon_gap import EpsilonGap
from atlas_cli.seeding import numpy_generator

LEVEL = 0.95
MIN_EXAMPLES = 20  # of which an interval is made; with fewer its ends would say as much as the figure
RESAMPLES = 1000
LOW_RATES = (0.01, 0.001)  # false positive rates


class Inapplicable(Exception):
    """Raised if an attack has nothing to work on; the message says why."""


@dataclass(frozen=True)
class LowRate:
    """The share found where hardly any other may be taken for one: a true positive rate at a low false positive rate.

    Attributes:
        rate: the false positive rate that is allowed; ``others``: of how many others.
        alarms: the number of others that may be taken for one of those that are looked for.
        found: the share of those that are found; ``low``, ``high``: its exact 95 % interval. None if there are fewer
            others than 1 / ``rate``, so that not one false alarm is within the rate.
    """

    rate: float
    others: int
    alarms: int
    found: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Figure:
    """The result of an attack.

    Attributes:
        attack: its name; ``what``: the measured quantity in words.
        channel: the channel that the adversary observes; ``knows``: what else the adversary knows.
        value, low, high: the number and its 95 % interval.
        chance: the value of a guess without information; ``best``: that of an attack that recovers everything.
        floor: the value of an attacker that knows only what is common; None if that equals chance.
        examples: the number of texts, records or clients behind the interval.
        note: whatever else a reader must know.
        low_rates: the true positive rates at low false positive rates, of an attack that tells two kinds apart.
        gap: the lower bound on epsilon that the attack shows, beside the upper one.
        rouge_l: the mean ROUGE-L of texts and its 95 % interval, of an attack that recovers tokens by position.
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
    low_rates: tuple[LowRate, ...] = ()
    gap: EpsilonGap | None = None
    rouge_l: tuple[float, float, float] | None = None

    def record(self) -> dict[str, Any]:
        """The figure as JSON, with its deduction from the privacy score."""
        return {**asdict(self), "advantage": self.advantage}

    @property
    def advantage(self) -> float:
        """(upper end - chance) / (best - chance), clipped to 0 .. 1: the possible gain that may be realised."""
        return min(1.0, max(0.0, (self.high - self.chance) / (self.best - self.chance)))


def privacy_score(figures: Sequence[Figure]) -> float | None:
    """1 - the worst attack's advantage, so that further attacks can only lower it; None if nothing was attacked."""
    return min((1.0 - figure.advantage for figure in figures), default=None)


def require_examples(count: int, what: str = "examples", least: int = MIN_EXAMPLES) -> None:
    """Refuse to compute an interval from too few examples.

    Raises:
        Inapplicable: there are too few; says how many are needed.
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
    """sum(hits) / sum(counts) with its interval, over examples of several trials each (such as a text's tokens).

    The bootstrap resamples examples, as tokens of one text are not independent. If all trials end alike resamples
    cannot differ, and the exact interval for as many trials as there are examples is used.

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
    """The probability that a positive scores above a negative, ties counted half (Mann and Whitney)."""
    merged = np.concatenate([positive, negative])
    _, inverse, counts = np.unique(merged, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n = len(positive)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * len(negative)))


def true_positives(positive: np.ndarray, negative: np.ndarray, rate: float) -> float:
    """The true positive rate at the lowest threshold whose false positive rate is at most ``rate``."""
    allowed = math.floor(rate * len(negative))
    threshold = np.sort(negative)[::-1][allowed]
    return float((positive > threshold).mean())


def at_few_false_alarms(positive: np.ndarray, negative: np.ndarray) -> tuple[LowRate, ...]:
    """The true positive rates at low false positive rates (Carlini et al., 2112.03570, section 4), and intervals.

    An interval is that of the share above the threshold that the others set; the threshold is taken as given.

    Args:
        positive, negative: the scores of members, (M,), and of others, (N,).
    """
    rates = []
    for rate in LOW_RATES:
        alarms = math.floor(rate * len(negative))
        if not alarms:
            rates.append(LowRate(rate, len(negative), 0, None, None, None))
            continue
        found = true_positives(positive, negative, rate)
        ends = clopper_pearson(round(found * len(positive)), len(positive))
        rates.append(LowRate(rate, len(negative), alarms, found, *ends))
    return tuple(rates)


def low_rates_in_words(rates: Sequence[LowRate]) -> str:
    """What is found at few false alarms, or that there are too few others to say."""
    found = [
        f"at {100 * r.rate:g} % false alarms ({r.alarms} of {r.others:,} others) finds {r.found:.3f} of members "
        f"({r.low:.3f} to {r.high:.3f})"
        if r.found is not None
        else f"{r.others:,} others are too few to speak of {100 * r.rate:g} % false alarms, "
        f"which takes {1 / r.rate:,.0f}"
        for r in rates
    ]
    return "; ".join(found)


def auc_interval(positive: np.ndarray, negative: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """The AUC with its interval: a bootstrap of both samples, or the exact interval of pairs if they do not overlap.

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
