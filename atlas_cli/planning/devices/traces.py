"""Rates that change over virtual time: constant in pieces, so that they are integrated exactly, in closed form."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

MOST_PIECES = 1_000_000


@dataclass(frozen=True)
class Trace:
    """A rate over virtual time, or 1 and 0 for what there is and what there is not; made by ``Trace.of``.

    Attributes:
        times: where its pieces begin, ascending from 0; neighbours have different rates.
        rates: of each piece, from 0 on.
        period: after which it begins anew; None: the last rate holds.
    """

    times: tuple[float, ...]
    rates: tuple[float, ...]
    period: float | None = None

    @classmethod
    def of(cls, times: Sequence[float], rates: Sequence[float], period: float | None = None) -> Trace:
        """A trace in which neighbouring pieces of one rate are one piece.

        Raises:
            ValueError: the rate is 0 for ever from some time on, or there are too many pieces.
        """
        kept = [0, *(place for place in range(1, len(rates)) if rates[place] != rates[place - 1])]
        if len(kept) > MOST_PIECES:
            raise ValueError(f"has more than {MOST_PIECES:,} pieces")
        found = cls(
            tuple(times[place] for place in kept),
            tuple(rates[place] for place in kept),
            period if len(kept) > 1 else None,
        )
        if found.rates[-1] == 0 and found.period is None:
            raise ValueError("is 0 for ever from some time on, so that a transfer would never end")
        return found

    @property
    def mean(self) -> float:
        """Over a period; without one, up to the last piece, or the rate of that piece where there is no other."""
        if self.period is not None:
            return self._whole / self.period
        return self._sums[-1] / self.times[-1] if self._sums[-1] else self.rates[-1]

    def rate(self, at: float) -> float:
        """The rate at a time."""
        return self.rates[self._place(self._since(at))]

    def next_above_zero(self, at: float) -> float:
        """The first time from ``at`` on at which the rate is above 0."""
        since = self._since(at)
        ahead = [k for k in range(self._place(since), len(self.rates)) if self.rates[k] > 0]
        if ahead:
            found = at + max(0.0, self.times[ahead[0]] - since)
        else:
            assert self.period is not None, "the last rate is above 0"
            found = at + (self.period - since) + next(t for t, r in zip(self.times, self.rates, strict=True) if r > 0)
        while not self.rate(found) > 0:  # the sum was rounded down
            found = math.nextafter(found, math.inf)
        return found

    def seconds(self, at: float, amount: float, slowdown: float = 1.0) -> float:
        """The time that an amount takes from ``at`` on, over ``slowdown``, by which all rates are divided.

        So it is amount / rate whatever the slowdown, where the rate does not change meanwhile.
        """
        since, needed = self._since(at), slowdown * amount
        place = self._place(since)
        rate, ends = self.rates[place], self._ends(place)
        if amount == 0 or (rate > 0 and needed <= rate * (ends - since)):
            return amount / rate if amount else 0.0
        wanted, again = self._sums[place] + rate * (since - self.times[place]) + needed, 0.0
        if self.period is not None:
            again, wanted = divmod(wanted, self._whole)
            if wanted == 0:  # the last of it comes before a period ends, not after the next has begun
                again, wanted = again - 1, self._whole
        last = bisect_left(self._sums, wanted) - 1
        ended = self.times[last] + (wanted - self._sums[last]) / self.rates[last] + again * (self.period or 0.0)
        return max(0.0, ended - since) / slowdown

    def capped(self, most: float) -> Trace:
        """The same, but nowhere above ``most``."""
        if most not in self._capped:
            least = [min(rate, most) for rate in self.rates]
            self._capped[most] = self if most >= max(self.rates) else Trace.of(self.times, least, self.period)
        return self._capped[most]

    def product(self, other: Trace) -> Trace:
        """The product with another trace.

        Raises:
            ValueError: it does not begin anew as a whole, or ``of`` refuses it.
        """
        period = self._common_period(other)
        (times, rates), (others, factors) = self._unrolled(period), other._unrolled(period)
        starts = sorted({*times, *others})
        product = [rates[bisect_right(times, t) - 1] * factors[bisect_right(others, t) - 1] for t in starts]
        return Trace.of(starts, product, period)

    def _common_period(self, other: Trace) -> float | None:
        known = [trace.period for trace in (self, other) if trace.period is not None]
        if len(known) < 2:
            if known and any(trace.period is None and len(trace.times) > 1 for trace in (self, other)):
                raise ValueError(
                    "one of the two begins anew, and the other does not; give both repeat_every, or neither"
                )
            return known[0] if known else None
        if not (max(known) / min(known)).is_integer():
            raise ValueError(
                f"one of the two begins anew after {known[0]:g} s, the other after {known[1]:g} s; make one "
                "repeat_every a whole multiple of the other"
            )
        return max(known)

    def _unrolled(self, until: float | None) -> tuple[Sequence[float], Sequence[float]]:
        """Times and rates of all pieces of a longer period."""
        if until is None or self.period is None:
            return self.times, self.rates
        many = round(until / self.period)
        if many * len(self.times) > MOST_PIECES:
            raise ValueError(f"has more than {MOST_PIECES:,} pieces in the period of the other")
        return [k * self.period + t for k in range(many) for t in self.times], self.rates * many

    def _since(self, at: float) -> float:
        """The time since the present period began."""
        return at if self.period is None else math.fmod(at, self.period)

    def _place(self, since: float) -> int:
        return bisect_right(self.times, since) - 1

    def _ends(self, place: int) -> float:
        if place + 1 < len(self.times):
            return self.times[place + 1]
        return math.inf if self.period is None else self.period

    @cached_property
    def _sums(self) -> list[float]:
        """What has come when each piece begins."""
        sums = [0.0]
        for (began, ended), rate in zip(pairwise(self.times), self.rates, strict=False):
            sums.append(sums[-1] + rate * (ended - began))
        return sums

    @cached_property
    def _whole(self) -> float:
        """What comes in a period."""
        assert self.period is not None
        return self._sums[-1] + self.rates[-1] * (self.period - self.times[-1])

    @cached_property
    def _capped(self) -> dict[float, Trace]:
        return {}
