"""Figures over runs that differ in nothing but their seed."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from atlas_cli.reports.comparison.compared import SEED, ComparedRun
from atlas_cli.reports.comparison.scores import Score


@dataclass(frozen=True)
class OverSeeds:
    """A figure over seeds: its mean, its deviation in the sample (n - 1; None for one run), and of how many runs."""

    name: str
    task_group: str
    metric: str
    mean: float
    sd: float | None
    n: int
    seeds: Sequence[int]
    test_parts: int


def over_seeds(pools: Sequence[Sequence[ComparedRun]], scores: Sequence[Score]) -> Iterator[OverSeeds]:
    """Every figure of every pool of runs."""
    for group, metric in dict.fromkeys((score.task_group, score.metric) for score in scores):
        for pool in pools:
            of_run = {run.name: run for run in pool}
            found = [s for s in scores if (s.task_group, s.metric) == (group, metric) and s.run in of_run]
            values = {score.run: score.value for score in found if score.value is not None}
            if values:
                yield OverSeeds(
                    pool_name(pool),
                    group,
                    metric,
                    statistics.fmean(values.values()),
                    statistics.stdev(values.values()) if len(values) > 1 else None,
                    len(values),
                    [of_run[name].records.config[SEED] for name in values],
                    len({of_run[name].groups[group].test_sha256 for name in values}),
                )


def pool_name(pool: Sequence[ComparedRun]) -> str:
    """What its runs are called, without their seeds."""
    first = pool[0]
    if "=" in first.name:  # named by settings
        parts = [part for part in first.name.split(", ") if not part.startswith(f"{SEED}=")]
        return ", ".join(parts) or str(first.records.config.get("name"))
    return first.name if len(pool) == 1 else f"{first.name} and {len(pool) - 1} more"
