"""A comparison of runs as a whole: its tables, its pictures, its notes, and its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from atlas_cli.reports.comparison import sheets
from atlas_cli.reports.comparison.compared import ComparedRun, Differences, alike_but_for_seeds, differences_of
from atlas_cli.reports.comparison.pictures import pictures_of
from atlas_cli.reports.comparison.scores import PairedTest, Score, paired_tests, scores_of
from atlas_cli.reports.comparison.seeds import OverSeeds, over_seeds
from atlas_cli.reports.comparison.targets import Cost, Target, costs_of, targets_of
from atlas_cli.reports.sheets import Sheet


@dataclass(frozen=True)
class Comparison:
    """All that is said of several runs; ``seeds`` is None where nobody asked for it."""

    runs: Sequence[ComparedRun]
    differ: Differences
    scores: Sequence[Score]
    tests: Sequence[PairedTest]
    targets: Sequence[Target]
    costs: Sequence[Cost]
    seeds: Sequence[OverSeeds] | None
    notes: Sequence[str]

    def sheets(self) -> Iterator[Sheet]:
        """Its tables; those without a row are left out."""
        every = [*sheets.differences(self.runs, self.differ), sheets.scores(self.scores)]
        every += [sheets.over_seeds(self.seeds)] if self.seeds is not None else []
        every += [sheets.tests(self.tests), sheets.targets(self.costs, self.targets), sheets.memory(self.runs)]
        return (sheet for sheet in every if sheet.rows)

    def pictures(self) -> Iterator[tuple[str, str]]:
        """Its pictures, by name."""
        return pictures_of(self.runs)

    def record(self) -> dict[str, Any]:
        """All of it as JSON types."""
        return {
            "runs": [_run_record(run) for run in self.runs],
            "differ": {kind: _by_run(self.runs, values) for kind, values in vars(self.differ).items()},
            "scores": [asdict(score) for score in self.scores],
            "over_seeds": None if self.seeds is None else [asdict(each) for each in self.seeds],
            "paired_tests": [asdict(test) for test in self.tests],
            "targets": [asdict(cost) for cost in self.costs],
            "notes": list(self.notes),
        }


def compare(
    runs: Sequence[ComparedRun], notes: Sequence[str], targets: Mapping[str, float], *, by_seed: bool = False
) -> Comparison:
    """Compare runs; those after the first are held against it.

    Args:
        notes: what is known of the runs already.
        targets: values to reach, by metric.

    Raises:
        ConfigError: a target that no run has.
    """
    wanted, without_target = targets_of(runs, targets)
    pools = alike_but_for_seeds(runs)
    tests, without_test = paired_tests(runs)
    scores = list(scores_of(runs))
    said = [*notes, *_unequal(runs), *without_target, *without_test]
    if not by_seed and any(len(pool) > 1 for pool in pools):
        said.append("some runs differ in their seed alone: --by-seed adds means and deviations over them")
    if not any(row["simulated_seconds"] is not None for run in runs for row in run.records.metrics):
        said.append("no virtual seconds and joules: clients have no devices, or not all figures of them are known")
    return Comparison(
        runs,
        differences_of(runs),
        scores,
        tests,
        wanted,
        list(costs_of(runs, wanted)),
        list(over_seeds(pools, scores)) if by_seed else None,
        said,
    )


def _unequal(runs: Sequence[ComparedRun]) -> Iterator[str]:
    """What keeps figures from being held against each other."""
    for run in runs:
        if not any(row["test"] for row in run.records.metrics):
            yield f"{run.name}: no figures, as it has no evaluated round"
    other_rows = []
    for group in dict.fromkeys(group for run in runs for group in run.records.data):
        having = [run for run in runs if group in run.records.data]
        if len(having) < len(runs):
            yield f"{group}: only in {'; '.join(run.name for run in having)}"
        if len({run.records.data[group].get("test_sha256") for run in having}) > 1:
            other_rows.append(group)
    if other_rows:
        yield (
            f"test parts differ, so figures are not of the same examples: {', '.join(other_rows)}; data_seed=N gives "
            "runs one"
        )
    if len({(run.records.config.get("evaluation") or {}).get("every") for run in runs}) > 1:
        yield "evaluation.every differs: a run that is evaluated seldom is seen to reach a target late"


def _run_record(run: ComparedRun) -> dict[str, Any]:
    client, size = sheets.largest_client(run)
    return {
        "name": run.name,
        "run": run.path,
        "status": run.records.manifest.get("status"),
        "rounds": run.records.done,
        "bytes_up": sum(group.bytes_up for group in run.groups.values()),
        "bytes_down": sum(group.bytes_down for group in run.groups.values()),
        "largest_client": client,
        "largest_client_memory": size,
    }


def _by_run(runs: Sequence[ComparedRun], values: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    return {key: {run.name: value for run, value in zip(runs, each, strict=True)} for key, each in values.items()}
