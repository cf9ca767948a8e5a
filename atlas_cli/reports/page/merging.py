"""How far what was delivered is from the exact weighted sum of updates, by round and by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atlas_cli.reports.charts.cells import cell_chart
from atlas_cli.reports.charts.lines import Line, line_chart
from atlas_cli.reports.page.elements import figure, figures, figures_beside, paragraph, thinned, words
from atlas_cli.reports.page.records import RunRecords
from atlas_cli.reports.summary import Record

MAX_LAYERS, MAX_ROUNDS, MAX_GROUPS, MAX_POINTS = 40, 40, 8, 200


def merging(records: RunRecords) -> str:
    """A chart by round, and one by round and layer for every task group."""
    merged = {g: [row for row in rows if row["aggregation_error"] is not None] for g, rows in records.groups.items()}
    merged = {group: rows for group, rows in merged.items() if rows}
    if not merged:
        return paragraph(
            "No error to show: nothing was merged yet, the method merges nothing, or the error ledger was off."
        )
    layers = [_by_layer(records, group, rows, _largest(merged)) for group, rows in list(merged.items())[:MAX_GROUPS]]
    more = f"Not drawn by layer: {len(merged) - MAX_GROUPS} more task groups; metrics.jsonl has all."
    return figures_beside([_by_round(records, merged), *layers]) + paragraph(more if len(merged) > MAX_GROUPS else "")


def _by_round(records: RunRecords, merged: dict[str, list[Record]]) -> str:
    lines, data = [], []
    parts = ("aggregation_error", "aggregation_truncation", "aggregation_cross_term")
    for group, rows in merged.items():
        drawn = thinned(rows, MAX_POINTS)
        points = [(float(row["round"]), row["aggregation_error"]) for row in drawn]
        lines.append(Line(group, points, records.number(group)))
        data += [(group, row["round"], *(row[part] for part in parts)) for row in drawn]
    shown = lines[:MAX_GROUPS]
    left = f" Not drawn: {len(lines) - MAX_GROUPS} more task groups." if len(lines) > MAX_GROUPS else ""
    caption = (
        f"Merge error by round: distance of the delivered adapters from the exact sum of updates, over its norm.{left}"
    )
    columns = [words("task group"), *map(figures, ("round", "error", "from cut ranks", "from the method's rule"))]
    picture = line_chart(shown, "round", "relative error", caption, from_zero=True)
    return figure(picture, caption, columns, data, "metrics.jsonl")


def _largest(merged: Mapping[str, Sequence[Record]]) -> float:
    """The largest error of a layer, so that all task groups have one scale."""
    layers = [row["aggregation_by_layer"] for rows in merged.values() for row in rows if row["aggregation_by_layer"]]
    return max((each["total"] or 0.0 for layer in layers for each in layer.values()), default=0.0)


def _by_layer(records: RunRecords, group: str, rows: Sequence[Record], largest: float) -> str:
    rows = [row for row in rows if row["aggregation_by_layer"]]
    if not rows:
        return ""
    drawn = thinned(rows, MAX_ROUNDS)
    last = rows[-1]["aggregation_by_layer"]
    most = sorted(last, key=lambda path: -(last[path]["total"] or 0.0))[:MAX_LAYERS]
    paths = [path for path in last if path in most]
    left = f" Not drawn: {len(last) - len(paths)} layers with smaller errors." if len(last) > len(paths) else ""
    every = " Some rounds are left out." if len(drawn) < len(rows) else ""
    caption = (
        f"{group}: merge error by layer and round; the fuller a cell the larger, on one scale for all.{left}{every}"
    )
    values = [(path, [_total(row, path) for row in drawn]) for path in paths]
    columns = [words("layer"), *(figures(f"round {row['round']}") for row in drawn)]
    labelled = zip(_short(paths), (figures_of for _, figures_of in values), strict=True)
    names = [str(row["round"]) for row in drawn]
    picture = cell_chart(list(labelled), names, records.colour(group), caption, "round", largest)
    if len(drawn) > 8:  # a table of as many columns fits nowhere: a row a layer and round
        columns = [words("layer"), figures("round"), figures("error")]
        data = [(path, row["round"], _total(row, path)) for path in paths for row in drawn]
        return figure(picture, caption, columns, data, "metrics.jsonl")
    return figure(picture, caption, columns, [(path, *each) for path, each in values], "metrics.jsonl")


def _short(paths: Sequence[str]) -> list[str]:
    """Paths of layers without what all of them have in common: ``0.query`` of ``encoder.layer.0.self.query``."""
    split = [path.split(".") for path in paths]
    if len(split) < 2 or len({len(parts) for parts in split}) > 1:
        return list(paths)
    differs = [i for i in range(len(split[0])) if len({parts[i] for parts in split}) > 1]
    return [".".join(parts[i] for i in differs) for parts in split]


def _total(row: Record, path: str) -> float | None:
    found = row["aggregation_by_layer"].get(path)
    return None if found is None else found["total"]
