"""Test metrics: against rounds, bytes, seconds and joules, all of them as a table, and losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from atlas_cli.reports.charts.lines import Line, line_chart
from atlas_cli.reports.page import elements
from atlas_cli.reports.page.elements import Cell, figure, figures, figures_beside, paragraph, table, thinned, words
from atlas_cli.reports.page.intervals import in_words, interval
from atlas_cli.reports.page.records import RunRecords
from atlas_cli.reports.summary import (
    Record,
    best_of,
    better_of,
    chosen_sentence,
    drops_sentence,
    losses,
    lowest_sentence,
    means_sentence,
    points,
    primary_metric,
    validates,
)
from atlas_cli.units import MB

MAX_POINTS = 200
MAX_LINES = 10  # task groups in one chart
BANDS = 3  # task groups whose intervals do not hide each other


@dataclass(frozen=True)
class _Price:
    """What a metric is drawn against: the running total of a figure of the rounds after round 0."""

    name: str
    says: str
    of: Callable[[Record], float | None]


def scores(records: RunRecords) -> str:
    """Charts and the table of every metric."""
    if not records.metrics:
        return ""
    metrics = dict.fromkeys(name for rows in records.groups.values() if (name := primary_metric(rows)))
    charts = [_against(records, metric, price) for metric in metrics for price in (None, *_prices(records))]
    lowest = lowest_sentence({s.metric: s.better for s in records.summaries if s.metric})
    chosen = chosen_sentence(records.summaries)
    said = (chosen, means_sentence(records.summaries), drops_sentence(records.summaries), lowest)
    remarks = [f"{name}: {note}" for name, facts in records.data.items() for note in facts.get("notes", ())]
    return (
        figures_beside([*charts, _losses(records)])
        + _every_metric(records)
        + "".join(paragraph(sentence[0].upper() + sentence[1:] + ".") for sentence in said if sentence)
        + (elements.folded("About the data", elements.notes(remarks)) if remarks else "")
    )


def _prices(records: RunRecords) -> list[_Price]:
    """What rounds cost, as far as it is known and not nothing."""
    rounds = [row for row in records.metrics if row["round"] > 0]
    timed = bool(rounds) and all(row["simulated_seconds"] is not None for row in rounds)
    clock = _Price("seconds", "seconds on the virtual clock of the devices", lambda r: r["simulated_seconds"])
    found = [
        _Price("MB", "MB that its clients sent and got after set-up", lambda r: (r["bytes_up"] + r["bytes_down"]) / MB),
        clock if timed else _Price("seconds", "seconds on this machine", lambda r: r["seconds"]),
        _Price("joules", "joules of all devices on the virtual clock", lambda r: r["simulated_joules"]),
    ]
    known = [price for price in found if all(price.of(row) is not None for row in rounds)]
    return [price for price in known if any(price.of(row) for row in rounds)]


def _against(records: RunRecords, metric: str, price: _Price | None) -> str:
    """A metric by round, or by what it cost until then, with intervals."""
    name = metric.replace("_", " ")
    lines, data = [], []
    groups = [group for group, rows in records.groups.items() if primary_metric(rows) == metric]
    for group in groups[:MAX_LINES]:
        spent, along = 0.0, []
        for row in records.groups[group]:
            spent += (price.of(row) or 0.0) if price and row["round"] > 0 else 0.0
            if row["test"].get(metric) is not None:
                along.append((float(row["round"]) if price is None else spent, row))
        along = list(thinned(along, MAX_POINTS))
        ends = [(x, *found) for x, row in along if (found := interval(row, metric))] if len(groups) <= BANDS else []
        drawn = [(x, row["test"][metric]) for x, row in along]
        lines.append(Line(group, drawn, records.number(group), band=ends))
        data += [(group, row["round"], *(() if price is None else (x,)), row["test"][metric]) for x, row in along]
    left = len(groups) - MAX_LINES
    note = f" Not drawn: {left} more task groups; metrics.jsonl has all." if left > 0 else ""
    shaded = " Shaded: 95 % intervals." if any(line.band for line in lines) else ""
    against = "round; round 0 is before training" if price is None else price.says
    caption = f"Test {name} by {against}.{shaded}{note}"
    columns = [words("task group"), figures("round"), *([figures(price.name)] if price else []), figures(name)]
    x_name = "round" if price is None else price.name
    picture = line_chart(lines, x_name, name, caption, rounds=price is None)
    return figure(picture, caption, columns, data, "metrics.jsonl")


def _losses(records: RunRecords) -> str:
    lines, data = [], []
    for group, rows in list(records.groups.items())[:MAX_LINES]:
        found = {"training": losses(rows), **{part: points(rows, "loss", part) for part in ("test", "validation")}}
        for dash, (part, values) in enumerate(found.items()):
            if part == "validation" and not values:
                continue
            drawn = thinned(values, MAX_POINTS)
            lines.append(Line(group, [(float(x), y) for x, y in drawn], records.number(group), dash))
            data += [(group, part, round_, loss) for round_, loss in drawn]
    more = "; dotted: on the validation part" if _validated(records) else ""
    caption = f"Loss by round. Solid: mean over the training batches of the round; dashed: on the test part{more}."
    columns = [words("task group"), words("part"), figures("round"), figures("loss")]
    return figure(line_chart(lines, "round", "loss", caption), caption, columns, data, "metrics.jsonl")


def _every_metric(records: RunRecords) -> str:
    rows: list[tuple[Cell, ...]] = []
    for group, lines in records.groups.items():
        evaluated = [line for line in lines if line["test"]]
        names = list(evaluated[-1]["test"]) if evaluated else []
        primary = primary_metric(lines)
        for name in sorted(names, key=lambda each: each != primary):
            rows.append(_metric_row(records, group, name, evaluated))
    columns = (words("task group"), words("metric"), *map(figures, ("before", "last", "95 % interval", "best (round)")))
    columns += (figures("test examples"),)
    if _validated(records):
        columns += (figures("validation, last"), figures("validation examples"))
    caption = "Every metric on the test part; before is round 0, last the last evaluated round"
    return table(columns, rows, caption, "metrics.jsonl") + paragraph(
        "Intervals are Wilson's, of this run's test part alone: they say how far its examples may have been lucky, and "
        "not how another seed would do. Figures that are no share of examples, and means over several models, have "
        "none."
    )


def _metric_row(records: RunRecords, group: str, name: str, evaluated: Sequence[Record]) -> tuple[Cell, ...]:
    values = points(evaluated, name)
    facts = records.data.get(group, {})
    better = (facts.get("metrics") or {}).get(name) or (
        better_of(evaluated) if name == primary_metric(evaluated) else None
    )
    best: Cell = None
    if better and (found := best_of(evaluated, name, better)) is not None:
        best = f"{elements.shown(found[1])} ({found[0]})"
    last = evaluated[-1]
    before = next((value for round_, value in values if round_ == 0), None)
    return (
        group,
        name.replace("_", " "),
        before,
        last["test"].get(name),
        in_words(interval(last, name)),
        best,
        facts.get("test"),
        *(((last.get("validation") or {}).get(name), facts.get("validation")) if _validated(records) else ()),
    )


def _validated(records: RunRecords) -> bool:
    return any(validates(rows) for rows in records.groups.values())
