"""What it cost to reach a target: bytes, virtual seconds and joules until the first evaluated round that reaches it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from atlas_cli.errors import ConfigError
from atlas_cli.reports.comparison.compared import ComparedRun
from atlas_cli.reports.summary import Record
from atlas_cli.suggest import did_you_mean


@dataclass(frozen=True)
class Target:
    """A value of a task group's primary metric: ``given`` by the user, or else the worst of the best of all runs."""

    task_group: str
    metric: str
    better: str
    value: float
    given: bool


@dataclass(frozen=True)
class Cost:
    """What a run spent until it reached a target; figures are None where it did not, or where they are not known.

    Bytes are of the task group's clients, both ways: ``set_up`` before the first round, and ``bytes`` after that.
    Seconds and joules are of the whole rounds.
    """

    run: str
    target: Target
    set_up: int
    round: int | None
    bytes: int | None
    seconds: float | None
    joules: float | None


def targets_of(runs: Sequence[ComparedRun], given: Mapping[str, float]) -> tuple[list[Target], list[str]]:
    """A target for each task group, and why others have none.

    Args:
        given: values by metric.

    Raises:
        ConfigError: a metric that is no task group's primary one.
    """
    metrics = {summary.metric for run in runs for summary in run.groups.values() if summary.metric}
    for metric in given:
        if metric not in metrics:
            known = ", ".join(sorted(metrics)) or "none"
            raise ConfigError(
                f"{metric} is no primary metric of these runs{did_you_mean(metric, metrics)} (they have: {known})",
                key="--target",
            )
    targets, notes = [], []
    for group in dict.fromkeys(group for run in runs for group in run.groups):
        summaries = [run.groups[group] for run in runs if group in run.groups]
        first = summaries[0]
        if first.metric is None or first.better is None or len({each.metric for each in summaries}) > 1:
            named = ", ".join(dict.fromkeys(each.metric or "none" for each in summaries))
            notes.append(f"{group}: no target, as runs have different primary metrics, or none ({named})")
        elif first.metric in given:
            targets.append(Target(group, first.metric, first.better, given[first.metric], True))
        elif values := [each.best for each in summaries if each.best is not None]:
            worse = max(values) if first.better == "lower" else min(values)
            targets.append(Target(group, first.metric, first.better, worse, False))
    return targets, notes


def costs_of(runs: Sequence[ComparedRun], targets: Sequence[Target]) -> Iterator[Cost]:
    """What every target cost every run."""
    for target in targets:
        for run in runs:
            if target.task_group in run.groups:
                yield _cost(run, target)


def spent(rows: Sequence[Record], until: int, name: str) -> float | None:
    """The sum of a figure over the rounds after set-up; None where one of them lacks it."""
    values = [row[name] for row in rows if 0 < row["round"] <= until]
    return None if None in values else sum(values)


def _cost(run: ComparedRun, target: Target) -> Cost:
    rows = run.records.groups[target.task_group]
    reached = next((row["round"] for row in rows if _reached(row, target)), None)
    both = {row["round"]: row["bytes_up"] + row["bytes_down"] for row in rows}
    set_up = both.get(0, 0)
    if reached is None:
        return Cost(run.name, target, set_up, None, None, None, None)
    after = sum(size for number, size in both.items() if 0 < number <= reached)
    seconds, joules = (spent(rows, reached, f"simulated_{what}") for what in ("seconds", "joules"))
    return Cost(run.name, target, set_up, reached, after, seconds, joules)


def _reached(row: Record, target: Target) -> bool:
    return reaches(row["test"].get(target.metric), target.value, target.better)


def reaches(value: float | None, goal: float, better: str) -> bool:
    """Whether a figure is as good as a goal."""
    if value is None:
        return False
    return value <= goal if better == "lower" else value >= goal
