"""What a run may spend: virtual seconds, joules, bytes and memory, and what it had spent by a round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from atlas_cli.errors import ConfigError
from atlas_cli.reports.comparison.targets import reaches, spent
from atlas_cli.reports.page.records import RunRecords
from atlas_cli.reports.summary import Record
from atlas_cli.suggest import did_you_mean
from atlas_cli.units import MB, MIB, parse_bytes, parse_energy, parse_time

_PARSERS: dict[str, Callable[[object], float]] = {
    "time": parse_time,
    "energy": parse_energy,
    "bytes": parse_bytes,
    "memory": parse_bytes,
}
NAMES = tuple(_PARSERS)
CLOCK = ("time", "energy")  # what only the virtual clock knows
EXAMPLE = "time=2 h, energy=5 kJ, bytes=200 MB"
Spent = Mapping[str, float | None]


class Point(NamedTuple):
    """A task group after a round that was evaluated.

    Attributes:
        test, validation: its primary metric; None where it is no finite number, or there is no such part.
        spent: by the names of a budget, in seconds, joules and bytes since set-up; None where it is not known. Bytes
            are of the clients of the task group, both ways; seconds and joules of whole rounds; memory is the measured
            peak of the task group's largest client, in bytes.
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


def curve(records: RunRecords, task_group: str, metric: str) -> Iterator[Point]:
    """The evaluated rounds of a task group in a run, from the first of training on."""
    rows, memory = records.groups[task_group], peak_memory(records, task_group)
    for row in rows:
        if row["round"] > 0 and metric in row["test"]:
            until = row["round"]
            used = {
                "time": spent(rows, until, "simulated_seconds"),
                "energy": spent(rows, until, "simulated_joules"),
                "bytes": sum(each["bytes_up"] + each["bytes_down"] for each in rows if 0 < each["round"] <= until),
                "memory": memory,
            }
            yield Point(until, row["test"][metric], (row.get("validation") or {}).get(metric), used, row)


def peak_memory(records: RunRecords, task_group: str) -> float | None:
    """Bytes that the task group's largest client was measured to need; None where one of its kinds was not measured.

    Clients whose task group is found by clustering count in each.
    """
    memory = records.memory
    if memory is None:
        return None
    clients = records.config.get("clients") or {}
    wanted = {name for name, entry in clients.items() if entry.get("task_group") in (None, task_group)}
    totals = {name: usage["total"] for name, usage in memory["clients"].items() if _kind(name, clients) in wanted}
    missing = wanted - {_kind(name, clients) for name in totals}
    if not totals or missing or any(_kind(name, clients) in wanted for name in memory["not_measured"]):
        return None
    return float(max(totals.values()))


def _kind(client: str, clients: Mapping[str, object]) -> str:
    """The entry of the config that a client is made from."""
    return client if client in clients else client.rpartition("-")[0]


def first_reaching(points: Sequence[Point], target: float, better: str, held: int) -> Point | None:
    """The first point from which on so many evaluations in a row reach a target, by validation where it is known.

    Args:
        held: how many, the first among them; those that are not there do not count.
    """
    good = [reaches(judged(point), target, better) for point in points]
    return next((point for i, point in enumerate(points) if len(run := good[i : i + held]) == held and all(run)), None)


def judged(point: Point) -> float | None:
    """The figure that says whether a target is reached."""
    return point.test if point.validation is None else point.validation


def within(point: Point, budget: Mapping[str, float]) -> bool:
    """Whether all that had been spent is known, and no more than the budget."""
    return all((used := point.spent[name]) is not None and used <= most for name, most in budget.items())


def unknown(points: Sequence[Point], budget: Mapping[str, float]) -> list[str]:
    """The limits of a budget of which the records do not say what was spent."""
    return [name for name in budget if any(point.spent[name] is None for point in points)]


def shown(name: str, value: float) -> float:
    """A cost in the unit of tables: seconds, joules, MB, MiB."""
    return value / {"bytes": MB, "memory": MIB}.get(name, 1)
