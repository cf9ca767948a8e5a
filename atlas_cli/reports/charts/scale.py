"""From values to places on an axis, with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """An axis from ``low`` to ``high``, drawn from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def scale(values: Sequence[float], start: float, end: float, *, whole: bool = False, zero: bool = False) -> Scale:
    """An axis that has room for all values.

    Logarithmic where the largest is over 20 times the smallest, as a perplexity before training hides all others; but
    shares, which have an end at 1, are not.

    Args:
        whole: ticks only at whole numbers, as rounds are, and no logarithm.
        zero: from zero on, as lengths must be, and no logarithm.
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    if not whole and not zero and low > 0 and high > max(1.0, 20 * low):
        ticks = tuple(m * 10.0**e for e in range(-12, 16) for m in (1, 2, 5) if low <= m * 10.0**e <= high)
        return Scale(low * 0.9, high * 1.1, start, end, ticks[:: 1 + len(ticks) // 7], log=True)
    if zero:
        low = min(low, 0.0)
    step = _step((high - low) / 5 or abs(high) / 5 or 0.2)
    if whole:
        step = max(1.0, float(math.ceil(step)))
        if low == high:  # one round: in the middle, the only tick
            return Scale(low - 0.5, high + 0.5, start, end, (low,))
        return Scale(low, high, start, end, _ticks(low, high, step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if first == last:  # one value: in the middle
        first, last = (first, last + 1) if zero else (first - 1, last + 1)
    return Scale(first * step, last * step, start, end, tuple(i * step for i in range(first, last + 1)))


def tick_text(value: float) -> str:
    """A tick in few characters: ``0.25``, ``1,200``, ``3e-5``."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.6g}"


def _ticks(low: float, high: float, step: float) -> tuple[float, ...]:
    first = math.ceil(low / step - 1e-9)
    return tuple(i * step for i in range(first, math.floor(high / step + 1e-9) + 1))


def _step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
