"""Limits on the figures of candidates, the choice among those that keep them, and which comes nearest if none does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from atlas_cli.errors import ConfigError, TooFewClientsError
from atlas_cli.planning.joint.figures import Figures
from atlas_cli.planning.joint.search import Found, TooLarge
from atlas_cli.suggest import one_of
from atlas_cli.units import format_bytes_mb, format_bytes_mib, format_number, parse_bytes, parse_time


def _number(text: object) -> float:
    try:
        value = float(str(text))
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if not value >= 0:
        raise ValueError(f"{text!r} is below 0")
    return value


def _joules(text: object) -> float:
    words = str(text).split()
    factors = {"J": 1.0, "kJ": 1e3, "MJ": 1e6, "Wh": 3600.0, "kWh": 3.6e6}
    if len(words) != 2 or words[1] not in factors:
        raise ValueError(f"{str(text)!r} is not an energy; write e.g. 500 J ({', '.join(factors)})")
    return _number(words[0]) * factors[words[1]]


@dataclass(frozen=True)
class Goal:
    """A figure that may be minimised and limited.

    Attributes:
        of: reads it; None where it is not known.
        parse, format: its quantities.
        unknown: why it may not be known.
    """

    of: Callable[[Figures], float | None]
    parse: Callable[[object], float]
    format: Callable[[float], str]
    unknown: str = ""


GOALS: Mapping[str, Goal] = {
    "memory": Goal(lambda f: f.memory, parse_bytes, lambda value: format_bytes_mib(int(value))),
    "time": Goal(
        lambda f: f.seconds,
        parse_time,
        lambda value: f"{value:,.4g} s",
        "every client needs a device with compute, uplink and downlink",
    ),
    "energy": Goal(
        lambda f: f.joules, _joules, lambda value: f"{value:,.4g} J", "every client needs a device with watts, too"
    ),
    "bytes": Goal(lambda f: f.bytes, parse_bytes, lambda value: format_bytes_mb(int(value))),
    "changes": Goal(lambda f: f.changes, _number, format_number),
    "leakage": Goal(
        lambda f: f.leakage,
        _number,
        format_number,
        "give what an attack recovers by layer with --leakage; a deeper cut leaks no more (--cuts)",
    ),
}


@dataclass(frozen=True)
class Limit:
    """The most that a figure may be; ``text`` is how it was written."""

    name: str
    most: float
    text: str

    def excess(self, figures: Figures) -> float:
        """By how much a candidate misses it; 0 or less if it does not."""
        value = GOALS[self.name].of(figures)
        assert value is not None
        return value - self.most


def limit_of(text: str) -> Limit:
    """Read a limit such as ``memory<=512 MiB``.

    Raises:
        ConfigError: not a figure, or no quantity of its kind.
    """
    name, sign, quantity = (part.strip() for part in text.partition("<="))
    if not sign or not quantity:
        raise ConfigError(f"{text!r} is no limit; write e.g. 'memory<=512 MiB'", key="--subject-to")
    _require_goal(name, "--subject-to")
    try:
        return Limit(name, GOALS[name].parse(quantity), f"{name}<={quantity}")
    except ValueError as error:
        raise ConfigError(str(error), key="--subject-to") from None


def choose(front: Sequence[Found], minimise: str, limits: Sequence[Limit]) -> Found:
    """The candidate of the least figure of those that keep all limits; of equals the one that changes the least of the
    file, and then the least in the other figures.

    Raises:
        ConfigError: the figure, or one that is limited, is not known.
        TooFewClientsError: none keeps the limits; says which comes nearest, and by how much it misses them.
    """
    _require_goal(minimise, "--minimise")
    for name, key in ((minimise, "--minimise"), *((limit.name, "--subject-to") for limit in limits)):
        if any(GOALS[name].of(found.figures) is None for found in front):
            raise ConfigError(f"{name} is not known: {GOALS[name].unknown}", key=key)
    kept = [found for found in front if all(limit.excess(found.figures) <= 0 for limit in limits)]
    if not kept:
        raise TooFewClientsError(_nearest(front, limits))

    def order(found: Found) -> tuple[float, ...]:
        value = GOALS[minimise].of(found.figures)
        assert value is not None
        return (value, found.figures.changes, *found.figures.costs())

    return min(kept, key=order)


def _nearest(front: Sequence[Found], limits: Sequence[Limit]) -> str:
    def shares(found: Found) -> list[float]:
        return sorted((limit.excess(found.figures) / (limit.most or 1.0) for limit in limits), reverse=True)

    nearest = min(front, key=shares).figures
    missed = [
        f"{limit.name} is {goal.format(value)}, {goal.format(excess)} too much"
        for limit in limits
        if (excess := limit.excess(nearest)) > 0
        and (goal := GOALS[limit.name])
        and (value := goal.of(nearest)) is not None
    ]
    kept = [limit.text for limit in limits if limit.excess(nearest) <= 0]
    also = f" (it keeps {' and '.join(kept)})" if kept else ""
    asked, blocks = " and ".join(limit.text for limit in limits), format_number(nearest.blocks)
    return (
        f"no candidate keeps {asked}; the nearest ({blocks} blocks on a client) misses: {'; '.join(missed)}{also}; "
        "raise a limit, or list more to choose from (--ranks, --quantizations, --dtypes, --batch-sizes, --codecs)"
    )


def nothing_fits(too_large: Sequence[TooLarge]) -> TooFewClientsError:
    """The error for clients that fit their devices with none of the settings."""
    texts = [
        f"{each.party} needs at least {format_bytes_mib(each.needs)}, {format_bytes_mib(each.needs - each.has)} more "
        f"than {each.device} has ({_settings(each)})"
        for each in too_large
    ]
    return TooFewClientsError(
        f"no candidate fits all devices: {'; '.join(texts)}; list more to choose from (--quantizations nf4, --dtypes "
        "bfloat16, --ranks, --batch-sizes, --cuts), or name devices with more memory"
    )


def _settings(each: TooLarge) -> str:
    return ", ".join(
        f"{key}: {str(value).lower() if isinstance(value, bool) else value}" for key, value in each.settings
    )


def _require_goal(name: str, key: str) -> None:
    if name not in GOALS:
        raise ConfigError(f"{name!r} is not a figure of a plan{one_of(name, GOALS)}", key=key)
