"""What a run may spend: virtual seconds, joules and bytes, and what it had spent by a round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from atlas_cli.errors import ConfigError
from atlas_cli.reports.comparison.targets import spent
from atlas_cli.reports.summary import Record
from atlas_cli.suggest import did_you_mean
from atlas_cli.units import MB, parse_bytes, parse_energy, parse_time

_PARSERS: dict[str, Callable[[object], float]] = {"time": parse_time, "energy": parse_energy, "bytes": parse_bytes}
CLOCK = ("time", "energy")  # what only the virtual clock knows
EXAMPLE = "time=2 h, energy=5 kJ, bytes=200 MB"
Spent = Mapping[str, float | None]


class Point(NamedTuple):
    """A task group after a round that was evaluated.

    Attributes:
        test, validation: its primary metric; None where it is no finite number, or there is no such part.
        spent: by the names of a budget, in seconds, joules and bytes since set-up; None where it is not known. Bytes
            are of the clients of the task group, both ways; seconds and joules of whole rounds.
        row: its record.
    """

    round: int
    test: float | None
    validation: float | None
    spent: Spent
    row: Record


def parse_budget(text: str | None) -> dict[str, float]:
    """``time=2 h, energy=5 kJ, bytes=200 MB`` in seconds, joules and bytes; None allows all.

    Raises:
        ConfigError: an unknown name, one given twice, or what is no such quantity.
    """
    found: dict[str, float] = {}
    for part in () if text is None else text.split(","):
        name, equals, quantity = (each.strip() for each in part.partition("="))
        if not equals or name not in _PARSERS:
            hint = did_you_mean(name, _PARSERS)
            raise ConfigError(f"{part.strip()!r} is no limit{hint}; write e.g. {EXAMPLE!r}", key="--budget")
        if name in found:
            raise ConfigError(f"{name} is given twice; give one limit", key="--budget")
        try:
            found[name] = _PARSERS[name](quantity)
        except ValueError as error:
            raise ConfigError(f"{name}: {error}", key="--budget") from None
    return found


def curve(rows: Sequence[Record], metric: str) -> Iterator[Point]:
    """The evaluated rounds of a task group in a run, from the first of training on."""
    for row in rows:
        if row["round"] > 0 and metric in row["test"]:
            until = row["round"]
            used = {
                "time": spent(rows, until, "simulated_seconds"),
                "energy": spent(rows, until, "simulated_joules"),
                "bytes": sum(each["bytes_up"] + each["bytes_down"] for each in rows if 0 < each["round"] <= until),
            }
            yield Point(until, row["test"][metric], (row.get("validation") or {}).get(metric), used, row)


def within(point: Point, budget: Mapping[str, float]) -> bool:
    """Whether all that had been spent is known, and no more than the budget."""
    return all((used := point.spent[name]) is not None and used <= most for name, most in budget.items())


def unknown(points: Sequence[Point], budget: Mapping[str, float]) -> list[str]:
    """The limits of a budget of which the records do not say what was spent."""
    return [name for name in budget if any(point.spent[name] is None for point in points)]


def shown(name: str, value: float) -> float:
    """A cost in the unit of tables: seconds, joules, MB."""
    return value / MB if name == "bytes" else value
