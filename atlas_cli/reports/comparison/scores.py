"""Figures of several runs on their test parts, with intervals, and paired tests where the examples are the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from atlas_cli.printable import as_typed
from atlas_cli.reports.comparison.compared import ComparedRun
from atlas_cli.reports.page.intervals import interval
from atlas_cli.reports.summary import GroupSummary
from atlas_cli.runs.outcomes import Outcomes
from atlas_cli.statistics import Ends, holm, mcnemar, paired_bootstrap


@dataclass(frozen=True)
class Score:
    """A figure of a run on the test part of a task group.

    Attributes:
        value: in the last evaluated ``round``; None where it is no finite number.
        interval: of 95 %: Wilson's of a share, else of resampled examples; None where neither is known.
        best, best_round: over all rounds, of the primary metric alone.
        models: of how many models it is the mean.
    """

    run: str
    task_group: str
    metric: str
    better: str | None
    round: int
    value: float | None
    interval: Ends | None
    best: float | None
    best_round: int | None
    examples: int | None
    models: int | None


@dataclass(frozen=True)
class PairedTest:
    """Whether a figure of two runs differs on the same test examples.

    Attributes:
        difference: of ``run`` less ``against``, with its ``interval`` of resampled examples.
        p: by ``test``; ``p_holm``: adjusted for all tests of this metric and task group (Holm 1979).
        alone: of McNemar's test, examples that ``run`` and that ``against`` alone gets right.
        rounds: which round the two models are of.
    """

    run: str
    against: str
    task_group: str
    metric: str
    difference: float
    interval: Ends | None
    p: float | None
    p_holm: float | None
    test: str
    alone: tuple[int, int] | None
    examples: int
    rounds: tuple[int, int]


def scores_of(runs: Sequence[ComparedRun]) -> Iterator[Score]:
    """Every figure of every run; the primary one of a task group first."""
    groups = dict.fromkeys(group for run in runs for group in run.records.groups)
    for group in groups:
        for metric in _metrics(runs, group):
            for run in runs:
                if (score := _score(run, group, metric)) is not None:
                    yield score


def paired_tests(runs: Sequence[ComparedRun]) -> tuple[list[PairedTest], list[str]]:
    """Every run against the first, in every figure for which both say what each example gave; and what lacks."""
    first, *others = runs
    tests: list[PairedTest] = []
    lacking: set[str] = set()
    notes: list[str] = []
    for group in dict.fromkeys(group for run in runs for group in run.records.groups):
        base = _outcomes(first, group)
        pairs: dict[str, list[PairedTest]] = {}
        for run in others:
            own = _outcomes(run, group)
            if not _could_be_paired(run, first, group):
                continue
            if base is None or own is None:
                lacking |= {each.path for each, has in ((first, base), (run, own)) if has is None}
            elif (base.rows_sha256, base.examples, base.labels) != (own.rows_sha256, own.examples, own.labels):
                notes.append(
                    f"{group}: no paired test of {run.name} against {first.name}: not the same examples scored"
                )
            else:
                for test in _tests(run.name, first.name, own, base):
                    pairs.setdefault(test.metric, []).append(test)
        for found in pairs.values():
            tests += _adjusted(found)
    commands = "; ".join(as_typed("atlas", "evaluate", run.path) for run in runs if run.path in lacking)
    return tests, [*notes, *([f"paired tests need what each test example gave: {commands}"] if commands else [])]


def _could_be_paired(run: ComparedRun, other: ComparedRun, group: str) -> bool:
    """Whether both have one model of the task group, and the same test rows; other notes say where not."""
    own, its = run.groups.get(group), other.groups.get(group)
    if own is None or its is None or own.test_sha256 != its.test_sha256:
        return False
    return _one_model(own) and _one_model(its)


def _one_model(summary: GroupSummary) -> bool:
    return summary.models in (1, None)


def _metrics(runs: Sequence[ComparedRun], group: str) -> list[str]:
    """The figures that any run has, primary ones first."""
    primary = [run.groups[group].metric for run in runs if group in run.groups]
    every = [name for run in runs for row in run.records.groups.get(group, ()) for name in row["test"]]
    return list(dict.fromkeys([*(name for name in primary if name), *every]))


def _score(run: ComparedRun, group: str, metric: str) -> Score | None:
    rows = [row for row in run.records.groups.get(group, ()) if metric in row["test"]]
    if not rows:
        return None
    last, summary = rows[-1], run.groups[group]
    declared = (run.records.data.get(group, {}).get("metrics") or {}).get(metric)
    primary = metric == summary.metric
    outcomes = _outcomes(run, group)
    ends = interval(last, metric)
    if ends is None and outcomes is not None and outcomes.round == last["round"]:
        ends = outcomes.interval(metric)
    return Score(
        run=run.name,
        task_group=group,
        metric=metric,
        better=summary.better if primary else declared,
        round=last["round"],
        value=last["test"][metric],
        interval=ends,
        best=summary.best if primary else None,
        best_round=summary.best_round if primary else None,
        examples=summary.test,
        models=last.get("models"),
    )


def _outcomes(run: ComparedRun, group: str) -> Outcomes | None:
    """Of the group's one model on the test part, in the latest round that was evaluated so."""
    if group not in run.groups or not _one_model(run.groups[group]):
        return None
    found = [each for each in run.outcomes if (each.task_group, each.client, each.part) == (group, None, "test")]
    return max(found, key=lambda each: each.round, default=None)


def _tests(name: str, against: str, own: Outcomes, base: Outcomes) -> Iterator[PairedTest]:
    for metric in own.figures:
        figures = base.figure(metric), own.figure(metric)
        if figures[0] is None or figures[1] is None:
            continue
        found = paired_bootstrap(figures[0], figures[1], own.examples)
        right = own.right_of(metric), base.right_of(metric)
        test, p, alone = "paired bootstrap", found.p, None
        if right[0] is not None and right[1] is not None:
            exact = mcnemar(right[0], right[1])
            test, p, alone = "McNemar, exact", exact.p, (exact.first_alone, exact.second_alone)
        rounds = own.round, base.round
        yield PairedTest(
            name,
            against,
            own.task_group,
            metric,
            found.value,
            found.interval,
            p,
            None,
            test,
            alone,
            own.examples,
            rounds,
        )


def _adjusted(tests: Sequence[PairedTest]) -> list[PairedTest]:
    known = [test for test in tests if test.p is not None]
    adjusted = dict(zip(map(id, known), holm([test.p for test in known if test.p is not None]), strict=True))
    return [replace(test, p_holm=adjusted.get(id(test))) for test in tests]
