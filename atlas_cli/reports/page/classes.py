"""The test part class by class: how many of each were found, and how many of what was called so were right."""

from __future__ import annotations

from collections.abc import Mapping

from atlas_cli.reports.charts.intervals import Estimate, interval_chart
from atlas_cli.reports.page.elements import Cell, figure, figures, figures_beside, paragraph, words
from atlas_cli.reports.page.intervals import in_words
from atlas_cli.reports.page.records import RunRecords
from atlas_cli.statistics import wilson

MAX_CLASSES = 25  # in a chart
Counts = Mapping[str, int]


def classes(records: RunRecords) -> str:
    """A chart of recalls for every task group whose task counts classes."""
    made = []
    for group, rows in records.groups.items():
        last = next((row for row in reversed(rows) if row.get("test_by_class")), None)
        if last is not None:
            made.append(_chart(records, group, last["round"], last["test_by_class"]))
    return figures_beside(made) if made else paragraph("No task group has figures by class.")


def _chart(records: RunRecords, group: str, round_: int, counts: Mapping[str, Counts]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1]["labels"])
    drawn = [_estimate(name, found) for name, found in ordered if found["labels"]][:MAX_CLASSES]
    left = len([1 for found in counts.values() if found["labels"]]) - len(drawn)
    note = f" Not drawn: {left} rarer classes; metrics.jsonl has all." if left else ""
    caption = f"{group}: recall by class in round {round_}, with 95 % intervals; most frequent first.{note}"
    columns = [words("class"), *map(figures, ("in the test part", "predicted", "right", "recall", "95 % interval"))]
    columns += [*map(figures, ("precision", "95 % interval of precision", "F1"))]
    picture = interval_chart(drawn, records.colour(group), "recall", caption)
    return figure(picture, caption, columns, [_row(name, found) for name, found in ordered], "metrics.jsonl")


def _estimate(name: str, found: Counts) -> Estimate:
    share = found["right"] / found["labels"]
    return Estimate(name, share, *wilson(share, found["labels"]), f"{share:.2f}")


def _row(name: str, found: Counts) -> tuple[Cell, ...]:
    right, labels, predicted = found["right"], found["labels"], found["predicted"]
    recall, precision = (right / n if n else None for n in (labels, predicted))
    return (
        *(name, labels, predicted, right),
        *(recall, in_words(None if recall is None else wilson(recall, labels))),
        *(precision, in_words(None if precision is None else wilson(precision, predicted))),
        2 * right / (labels + predicted),
    )
