"""The tables of a comparison."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from atlas_cli.reports.comparison.compared import ComparedRun, Differences
from atlas_cli.reports.comparison.scores import PairedTest, Score
from atlas_cli.reports.comparison.seeds import OverSeeds
from atlas_cli.reports.comparison.targets import Cost, Target
from atlas_cli.reports.sheets import Cell, Column, Sheet
from atlas_cli.statistics import RESAMPLES, Ends
from atlas_cli.units import MB, MIB

_HASH = re.compile(r"\b[0-9a-f]{40,64}\b")
_LONGEST = 60  # letters of a value


def differences(runs: Sequence[ComparedRun], found: Differences) -> Iterator[Sheet]:
    """A table for each kind of difference; a row for each key."""
    kinds = {
        "config": ("Config keys that differ", found.config),
        "versions": ("Versions and machines that differ", found.versions),
        "model": ("What differs in the model", found.model),
        "data": ("What differs in the data", found.data),
        "code": ("Code of plug-ins that differs", found.code),
    }
    for name, (title, values) in kinds.items():
        if values:
            columns = [Column("key"), *(Column(run.name) for run in runs)]
            yield Sheet(f"differ-{name}", title, columns, [(key, *map(_value, each)) for key, each in values.items()])


def scores(found: Sequence[Score]) -> Sheet:
    """A row for each figure of each run."""
    columns = [Column("task group"), Column("metric"), Column("run")]
    columns += [Column(name, True, spare) for name, spare in (("value", 0), ("low", 0), ("high", 0), ("round", 2))]
    columns += [Column(name, True, spare) for name, spare in (("best", 1), ("of round", 1), ("examples", 3))]
    rows: list[Sequence[Cell]] = [
        (s.task_group, s.metric, s.run, s.value, *_ends(s.interval), s.round, s.best, s.best_round, s.examples)
        for s in found
    ]
    notes = [
        "value, best: on the test part, in the last evaluated round and in the best, which is chosen on the validation "
        "part where a run has one, else on the test part itself",
        f"low, high: 95 % interval, Wilson's of shares, else percentiles of {RESAMPLES:,} resamples of the examples; "
        "of this test part alone, so it says nothing of other seeds",
    ]
    if several := list(dict.fromkeys(f"{s.run}, {s.task_group}: {s.models}" for s in found if (s.models or 1) > 1)):
        notes.append(f"plain means over several models, which no test is about: {'; '.join(several)}")
    lower = list(dict.fromkeys(s.metric for s in found if s.better == "lower"))
    notes += [f"the lower the better: {', '.join(lower)}"] if lower else []
    return Sheet("scores", "Figures on the test parts", columns, rows, notes)


def tests(found: Sequence[PairedTest]) -> Sheet:
    """A row for each run that is held against the first, and figure."""
    columns = [Column("task group"), Column("metric"), Column("run"), Column("against"), Column("difference", True)]
    columns += [Column("low", True), Column("high", True), Column("p", True), Column("p, Holm", True, 1)]
    columns += [Column("test", False, 2)]
    columns += [Column("examples", True, 3), Column("rounds", True, 3)]
    rows: list[Sequence[Cell]] = [
        (
            *(t.task_group, t.metric, t.run, t.against, t.difference),
            *(*_ends(t.interval), t.p, t.p_holm, _test(t), t.examples, " and ".join(map(str, t.rounds))),
        )
        for t in found
    ]
    notes = [
        f"difference: run less against, on the same test examples; low, high: its 95 % interval, of {RESAMPLES:,} "
        "paired resamples",
        "p: two-sided; p, Holm: adjusted for all runs that are held against the first in this figure",
    ]
    return Sheet("paired-tests", "Paired tests", columns, rows, notes)


def targets(found: Sequence[Cost], targets: Sequence[Target]) -> Sheet:
    """A row for each run and target."""
    columns = [Column("task group"), Column("target"), Column("run"), Column("round", True), Column("MB", True)]
    columns += [Column("virtual seconds", True), Column("joules", True, 1), Column("set-up, MB", True, 2)]
    rows: list[Sequence[Cell]] = []
    for cost in found:
        sign = "≤" if cost.target.better == "lower" else "≥"
        target = f"{cost.target.metric} {sign} {cost.target.value:.4g}"
        reached: tuple[Cell, ...] = ("not reached", None, None, None)
        if cost.round is not None:
            size = None if cost.bytes is None else cost.bytes / MB
            reached = (cost.round, size, cost.seconds, cost.joules)
        rows.append((cost.target.task_group, target, cost.run, *reached, cost.set_up / MB))
    notes = [
        "in the first evaluated round that reaches the target, without interpolation; MB (1,000,000 bytes): of the "
        "task group's clients, both ways, after set-up, which has a column of its own; seconds and joules: of whole "
        "rounds on the virtual clock"
    ]
    if any(not target.given for target in targets):
        notes.append("targets: the worst of the best values of all runs, but those that --target gives")
    return Sheet("targets", "What a target cost", columns, rows, notes)


def memory(runs: Sequence[ComparedRun]) -> Sheet:
    """A row for each run."""
    columns = [Column("run"), Column("largest client, MiB", True), Column("which"), Column("server, MiB", True)]
    rows: list[Sequence[Cell]] = []
    for run in runs:
        measured = run.records.memory
        name, largest = largest_client(run)
        server = measured["server"]["total"] / MIB if measured and measured["server"] else None
        rows.append((run.name, None if largest is None else largest / MIB, name or "not measured", server))
    return Sheet("memory", "Memory while training, measured", columns, rows, ["MiB: 1,048,576 bytes"])


def largest_client(run: ComparedRun) -> tuple[str | None, int | None]:
    """The client that holds most, and its bytes; None where no memory was measured."""
    clients = run.records.memory["clients"] if run.records.memory else {}
    if not clients:
        return None, None
    name = max(clients, key=lambda each: clients[each]["total"])
    return name, clients[name]["total"]


def over_seeds(found: Sequence[OverSeeds]) -> Sheet:
    """A row for each figure of each set of runs that differ in their seed alone."""
    columns = [Column("task group"), Column("metric"), Column("runs"), Column("mean", True)]
    columns += [Column("standard deviation", True), Column("n", True), Column("seeds", False, 1)]
    rows: list[Sequence[Cell]] = [
        (f.task_group, f.metric, f.name, f.mean, f.sd, f.n, ", ".join(map(str, f.seeds))) for f in found
    ]
    notes = ["of the last evaluated rounds; standard deviation: of the sample (n - 1); n: runs whose figure is finite"]
    return Sheet("over-seeds", "Over seeds", columns, rows, notes)


def _value(value: Any) -> str | None:
    """A value in few letters; a hash by its first."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = _HASH.sub(lambda found: found[0][:12], text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _ends(interval: Ends | None) -> Sequence[Cell]:
    return interval or (None, None)


def _test(test: PairedTest) -> str:
    return test.test if test.alone is None else f"{test.test} ({test.alone[0]} : {test.alone[1]})"
