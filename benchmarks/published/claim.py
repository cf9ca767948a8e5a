"""The contract of a file about a paper: what it claims, in which setting, and the verdict on what atlas gives.

A file has the constant ``PAPER`` and a function ``claims()``. Setting, interval and figures of a claim are written
before it is measured, and nothing is chosen so that it agrees. What is measured must come from atlas' own code (plans,
messages, ledgers, merges, attacks, runs), never from a formula that the file itself evaluates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

from paired import Interval

EXACT, REPRODUCED, SAME_ORDER, NOT_REPRODUCED = "exact", "reproduced", "same order", "not reproduced"
Value = float | Interval | None
VERDICTS = (EXACT, REPRODUCED, SAME_ORDER, NOT_REPRODUCED)  # the best first
RULE = (
    "*exact*: every figure is the source's to the last digit that it prints, or follows its equation to within the "
    "rounding that is stated. *reproduced*: every figure is inside the stated interval. *same order*: any two figures "
    "that differ in the source differ in the same direction here, at the digits that it prints. *not reproduced*: "
    "none of these, or atlas has nothing that gives the figure. Differences between trained stand-ins, which stand "
    "here with their interval of 95 % over seeds (Student's t), are *same order* at best: each has the source's "
    "sign, and its interval excludes 0; where the source says that two differ by at most so much, its interval lies "
    "within that."
)


@dataclass(frozen=True)
class Paper:
    """A source.

    Attributes:
        name: its name or that of its method.
        number: of arXiv or another archive, or who published it.
        url: where it is found; None if nowhere without a subscription.
        secondary: figures were not read in the source itself, but in a review, a note or a port of it.
    """

    name: str
    number: str
    url: str | None = None
    secondary: bool = False


@dataclass(frozen=True)
class Figure:
    """One number of a claim, as the source prints it; "0" for a difference from what an equation gives.

    Attributes:
        within: what a measured value that is exact may differ by; None: half a unit of the last digit printed.
        at_most: of a difference over seeds that the source says is small: what the whole interval must lie within.
    """

    name: str
    printed: str
    within: float | None = None
    at_most: float | None = None

    @property
    def value(self) -> float:
        """The number."""
        return float(self.printed.replace(",", ""))

    @property
    def exact(self) -> float:
        """What a measured value that is exact may differ by."""
        if self.within is not None:
            return self.within
        return 0.5 * 10.0**-self.decimals * (1 + 1e-9)

    def agrees(self, difference: Interval) -> bool:
        """Whether a difference over seeds has the sign of this one, or is as small as the source says."""
        if self.at_most is not None:
            return difference.half is not None and abs(difference.mean) + difference.half <= self.at_most
        return difference.excludes_zero() and difference.mean * self.value > 0

    @property
    def decimals(self) -> int:
        """Digits after the point."""
        return len(self.printed.partition(".")[2])


@dataclass(frozen=True)
class Claim:
    """What a paper says, and how it is asked of atlas.

    Attributes:
        where: section, table or equation of the source.
        setting: model, sizes, seeds: all that the figures depend on.
        changed: what differs from the source's own setting, and why the claim can be checked all the same.
        figures: as the source prints them.
        interval: the part of a figure by which a value that is reproduced may differ from it.
        measure: gives the values in the order of ``figures``; None for one that atlas cannot give, an ``Interval`` for
            a difference over seeds.
        ranked: whether the order of the figures is part of the claim, so that the verdict may be "same order".
        slow: takes more than seconds; ``--quick`` leaves it out.
        found: what was found out about figures that differ.
    """

    name: str
    where: str
    setting: str
    figures: tuple[Figure, ...]
    measure: Callable[[], Sequence[Value]]
    changed: str = ""
    interval: float = 0.0
    ranked: bool = False
    slow: bool = False
    found: str = ""

    def verdict(self, values: Sequence[Value]) -> str:
        """One of ``VERDICTS``, by ``RULE``."""
        pairs = list(zip(self.figures, values, strict=True))
        if seen := [(figure, value) for figure, value in pairs if isinstance(value, Interval)]:
            alike = all(figure.agrees(value) for figure, value in seen)
            return SAME_ORDER if alike and len(seen) == len(pairs) else NOT_REPRODUCED
        known = [(figure, value) for figure, value in pairs if isinstance(value, int | float)]
        if len(known) < len(pairs):
            return NOT_REPRODUCED
        if all(abs(value - figure.value) <= figure.exact for figure, value in known):
            return EXACT
        if all(abs(value - figure.value) <= self.interval * abs(figure.value) for figure, value in known):
            return REPRODUCED
        if self.ranked and in_order([f.value for f, _ in known], [round(v, f.decimals) for f, v in known]):
            return SAME_ORDER
        return NOT_REPRODUCED


def in_order(claimed: Sequence[float], measured: Sequence[float]) -> bool:
    """Whether any two claims that differ are measured to differ in the same direction; not so of fewer than two."""
    differ = [(a - b) * (x - y) for (a, x), (b, y) in combinations(zip(claimed, measured, strict=True), 2) if a != b]
    return bool(differ) and all(product > 0 for product in differ)


def worse(verdict: str, recorded: str) -> bool:
    """Whether a verdict is worse than the one on record."""
    return VERDICTS.index(verdict) > VERDICTS.index(recorded)
