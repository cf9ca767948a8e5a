"""A sweep's trials as tables and records: one row per trial, and mean and standard deviation over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from atlas_cli.config import strict_yaml
from atlas_cli.config.grid import Combination
from atlas_cli.reports.fitted import layout
from atlas_cli.reports.summary import GroupSummary, lowest_sentence
from atlas_cli.runs.run_status import RunStatus
from atlas_cli.sweeps.trial import Outcome, Trial
from atlas_cli.units import format_number

SEED = "seed"
WOULD = {"run": "run", "resume": "resume", "skip": "skip (finished)", "held": "fail (another process writes there)"}
Row = tuple[Trial, Outcome]


@dataclass(frozen=True)
class OverSeeds:
    """A task group's metric after training over the finished runs that differ in nothing but their seed.

    ``sd`` is that of the sample (n - 1), None for one run. ``better`` says which way the metric is, as its task does.
    ``test_parts`` counts the test parts that differ in their rows, and ``test_examples`` are the fewest and the most
    examples that one of them has.
    """

    mean: float
    sd: float | None
    n: int
    better: str | None
    test_parts: int
    test_examples: list[int]


def over_seeds(rows: Sequence[Row]) -> list[tuple[dict[str, str], int, dict[tuple[str, str], OverSeeds]]]:
    """For every combination of the other axes: its values, how many seeds it has, and figures by (group, metric)."""
    together: dict[tuple[tuple[str, str], ...], list[Outcome]] = {}
    for trial, outcome in rows:
        together.setdefault(tuple((k, v) for k, v in trial.combination.values.items() if k != SEED), []).append(outcome)
    result = []
    for values, outcomes in together.items():
        found: dict[tuple[str, str], list[GroupSummary]] = {}
        for group in (group for outcome in outcomes for group in outcome.groups):
            if group.metric is not None and group.after is not None:
                found.setdefault((group.task_group, group.metric), []).append(group)
        figures = {column: _over(groups) for column, groups in found.items()}
        result.append((dict(values), len(outcomes), figures))
    return result


def _over(groups: Sequence[GroupSummary]) -> OverSeeds:
    values = [group.after for group in groups if group.after is not None]
    sizes = [group.test for group in groups if group.test is not None]
    return OverSeeds(
        statistics.fmean(values),
        statistics.stdev(values) if len(values) > 1 else None,
        len(values),
        groups[0].better,
        len({group.test_sha256 for group in groups}),
        [min(sizes), max(sizes)] if sizes else [],
    )


def cautions(rows: Sequence[Row]) -> list[str]:
    """What to know before runs are compared: which way metrics are better, and test parts that are not the same."""
    groups = [group for _, outcome in rows for group in outcome.groups]
    lines = [lowest_sentence({group.metric: group.better for group in groups if group.metric})]
    for name in dict.fromkeys(group.task_group for group in groups):
        of_group = [group for group in groups if group.task_group == name]
        parts = len({group.test_sha256 for group in of_group})
        sizes = [group.test for group in of_group if group.test is not None]
        if parts > 1 and sizes:
            spread = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
            lines.append(f"{name}: {parts} different test parts, of {spread} examples; data_seed=N gives all runs one")
        if lost := sum(group.metric is not None and group.after is None for group in of_group):
            lines.append(f"{name}: runs whose figure is no finite number are in no mean: {lost} of {len(of_group)}")
    return [line for line in lines if line]


def sweep_table(rows: Sequence[Row]) -> Table:
    """One row per trial: number, values of the axes, status, metrics after training, name of the run directory."""
    columns = _columns(_figures(outcome) for _, outcome in rows)
    caption = "metrics: on the held-out test part, after the last round"
    if any(outcome.status == "skipped" for _, outcome in rows):
        caption += "\nskipped: a finished run of the same config was there"
    table = Table(title="Sweep", caption=caption, **layout())
    table.add_column("", justify="right")
    _add_columns(table, rows[0][0].combination.values, "status", columns)
    table.add_column("run directory", overflow="fold")
    for trial, outcome in rows:
        figures = _figures(outcome)
        cells = [format_number(figures[c]) if c in figures else "-" for c in columns]
        run = outcome.run.name if outcome.run else "-"
        table.add_row(str(trial.number), *trial.combination.values.values(), outcome.status, *cells, run)
    return table


def failures(rows: Sequence[Row]) -> Iterator[str]:
    """A line for every trial that failed: its number, why, and its log."""
    for trial, outcome in rows:
        if outcome.status == "failed":
            log = f" (log {outcome.log})" if outcome.log else ""
            yield f"{trial.number} failed: {outcome.error}{log}"


def seeds_table(rows: Sequence[Row]) -> Table:
    """A row for every combination of the axes but seed: seeds that finished, mean and deviation of every metric."""
    combined = over_seeds(rows)
    columns = _columns(figures for _, _, figures in combined)
    table = Table(title="Over seeds", caption="mean ± standard deviation of the sample (n - 1)", **layout())
    _add_columns(table, [key for key in rows[0][0].combination.values if key != SEED], "seeds", columns)
    for values, total, figures in combined:
        n = max((each.n for each in figures.values()), default=0)
        cells = (_mean(figures[c]) if c in figures else "-" for c in columns)
        table.add_row(*values.values(), str(n) if n == total else f"{n} of {total}", *cells)
    return table


def sweep_record(rows: Sequence[Row]) -> dict[str, Any]:
    """Both tables as a JSON record: ``runs``, and ``over_seeds`` where seed is an axis; values of axes as in YAML."""
    record: dict[str, Any] = {"runs": [_run_record(trial, outcome) for trial, outcome in rows]}
    if any(SEED in trial.combination.values for trial, _ in rows):
        record["over_seeds"] = [
            {
                "values": _plain(values),
                "seeds": total,
                "task_groups": {group: {"metric": metric, **asdict(f)} for (group, metric), f in figures.items()},
            }
            for values, total, figures in over_seeds(rows)
        ]
    return record


def dry_run_table(rows: Sequence[tuple[Combination, RunStatus]]) -> Table:
    """One row per trial: its values, the planned action, and its run directory."""
    table = Table(title="Sweep", caption="nothing was run; resume: from its last checkpoint", **layout())
    table.add_column("", justify="right")
    _add_columns(table, (*rows[0][0].values, "would"), "run directory", [])
    for number, (combination, standing) in enumerate(rows, 1):
        run = standing.run.path.name if standing.run else "-"
        table.add_row(str(number), *combination.values.values(), WOULD[standing.action], run)
    return table


def dry_run_record(rows: Sequence[tuple[Combination, RunStatus]]) -> dict[str, Any]:
    """The same as a JSON record."""
    runs = []
    for number, (combination, standing) in enumerate(rows, 1):
        run = str(standing.run.path) if standing.run else None
        would = {"would": standing.action, "run": run, "error": standing.reason}
        runs.append({"number": number, "values": _plain(combination.values), **would})
    return {"runs": runs}


def _plain(values: Mapping[str, str]) -> dict[str, Any]:
    """The values of a trial's axes as data."""
    return {key: strict_yaml.parse(text, key).data for key, text in values.items()}


def _run_record(trial: Trial, outcome: Outcome) -> dict[str, Any]:
    return {
        "number": trial.number,
        "values": _plain(trial.combination.values),
        "status": outcome.status,
        "run": str(outcome.run) if outcome.run else None,
        "error": outcome.error,
        "log": str(outcome.log) if outcome.log else None,
        "seconds": round(outcome.seconds, 3),
        "task_groups": {group.task_group: asdict(group) for group in outcome.groups},
    }


def _figures(outcome: Outcome) -> dict[tuple[str, str], float | None]:
    return {(g.task_group, g.metric): g.after for g in outcome.groups if g.metric is not None}


def _add_columns(table: Table, axes: Iterable[str], then: str, columns: Sequence[tuple[str, str]]) -> None:
    for heading in (*axes, then):
        table.add_column(heading, overflow="fold")
    for group, metric in columns:
        table.add_column(f"{group}\n{metric}", justify="right", overflow="fold")


def _mean(figure: OverSeeds) -> str:
    return format_number(figure.mean) + (f" ± {format_number(figure.sd)}" if figure.sd is not None else "")


def _columns(found: Iterable[Mapping[tuple[str, str], Any]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(column for figures in found for column in figures))
