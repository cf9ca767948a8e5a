"""The lower bound on epsilon that an audit finds, beside the upper bound that the accountant gives.

A lower bound above the upper one says that a mechanism leaks more than is accounted for: ``atlas audit`` then fails.
Either bound is of one unit, one delta and one channel. A lower bound holds with 95 % confidence, so that of mechanisms
that reach their epsilon exactly one in twenty audits fails by chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from atlas_cli.errors import BrokenBoundError

CONFIDENCE = 0.95
_MOST = 50.0  # no number of guesses that can be made shows a larger epsilon


@dataclass(frozen=True)
class EpsilonGap:
    """Two bounds on epsilon.

    Attributes:
        unit: what neighbours differ in.
        delta: at which both hold.
        lower: at least, with 95 % confidence; 0 if nothing is shown.
        upper: at most; None if there is none to hold the lower one against, which ``why`` explains.
    """

    unit: str
    delta: float
    lower: float
    upper: float | None
    why: str = ""

    def in_words(self) -> str:
        """Both bounds in a sentence."""
        most = (
            f"at most {self.upper:.3g} by the accountant" if self.upper is not None else f"no upper bound: {self.why}"
        )
        return f"epsilon of {self.unit} at delta {self.delta:g}: at least {self.lower:.3g} (95 %), {most}"

    def require(self, where: str) -> None:
        """Compare the bounds.

        Raises:
            BrokenBoundError: the lower bound is above the upper one.
        """
        if self.upper is not None and self.lower > self.upper:
            raise BrokenBoundError(
                f"{where} shows epsilon of {self.unit} to be {self.lower:.3g} or more, and the accountant promises "
                f"{self.upper:.3g} at delta {self.delta:g}: the mechanism leaks more than is accounted for, or this is "
                "one of the 5 in 100 audits that are wrong; audit again with another seed and more runs or canaries"
            )


def require_bounds(audit: Mapping[str, Any]) -> None:
    """Compare the bounds of all attacks of an audit.

    Raises:
        BrokenBoundError: a lower bound is above its upper one.
    """
    for figure in audit["attacks"]:
        if figure["gap"] is not None:
            EpsilonGap(**figure["gap"]).require(f"attack {figure['attack']}")


def guesses_bound(right: int, guesses: int, delta: float) -> float:
    """A 95 % lower bound on epsilon, for examples added or removed, from guesses which of two examples was trained on.

    One run is enough, as examples do not depend on each other (Steinke, Nasr and Jagielski, 2305.08846, Theorem 5.2).
    One example in place of another is two steps between neighbours, so it has 2 epsilon at (1 + e^epsilon) delta.

    Args:
        right: right guesses among ``guesses``, one for each of as many pairs, of which a fair coin chose one.
    """
    low, high = 0.0, _MOST
    if _p_value(right, guesses, low, delta) >= 1 - CONFIDENCE:
        return 0.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        rejected = _p_value(right, guesses, middle, delta) < 1 - CONFIDENCE
        low, high = (middle, high) if rejected else (low, middle)
    return low


def _p_value(right: int, guesses: int, epsilon: float, delta: float) -> float:
    """The largest probability of so many right guesses under (epsilon, delta), by Theorem 5.2."""
    other = min(1.0, (1 + math.exp(epsilon)) * delta)
    k = np.arange(guesses + 1)
    ways = math.lgamma(guesses + 1) - np.array([math.lgamma(i + 1) + math.lgamma(guesses - i + 1) for i in k])
    told, missed = np.log1p(np.exp(-2 * epsilon)), np.log1p(np.exp(2 * epsilon))  # minus logs of either share
    chances = np.exp(ways - k * told - (guesses - k) * missed)
    fewer = np.arange(1, right + 1)
    more = np.cumsum(chances[right - fewer]) / fewer
    return float(chances[right:].sum() + 2 * guesses * other * max(more, default=0.0))
