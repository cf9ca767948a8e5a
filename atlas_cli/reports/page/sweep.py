"""report.html of a sweep: its runs side by side, by their metrics and by what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atlas_cli.reports.charts.intervals import Estimate, interval_chart
from atlas_cli.reports.charts.lines import Line, line_chart
from atlas_cli.reports.charts.palette import colour_of_group
from atlas_cli.reports.escaped import escape
from atlas_cli.reports.page.document import document
from atlas_cli.reports.page.elements import Cell, Link, figure, figures, figures_beside, notes, paragraph, table, words
from atlas_cli.reports.page.records import counted
from atlas_cli.units import MB, format_number

MAX_RUNS = 40  # in a chart
Run = Mapping[str, Any]


def sweep_page(folder: Path, record: Mapping[str, Any], *, again: bool = False) -> str:
    """The page as text.

    Args:
        folder: of the sweep, beside those of its runs.
        record: of sweep.json.
        again: runs are still to come, and the page is going to be written again.
    """
    runs: Sequence[Run] = record["runs"]
    sections = {"Metrics": _metrics(record), "Against bytes": _against_bytes(runs), "Runs": _runs(folder, runs)}
    if record.get("over_seeds"):
        sections["Over seeds"] = _over_seeds(record["over_seeds"])
    ended = [run for run in runs if run["status"] in ("finished", "skipped")]
    failed = sum(run["status"] == "failed" for run in runs)
    said = f"{len(ended)} of {counted(len(runs), 'run')} finished" + (f", {failed} failed" if failed else "") + "."
    head = f"<header><h1>{escape(folder.name)}</h1>{paragraph(said)}{notes(_best(ended))}</header>\n"
    return document(folder.name, head, sections, again=again)


def _groups(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(group for run in runs for group in run["task_groups"]))


def _label(values: Mapping[str, Any]) -> str:
    """``seed=0 aggregation.method=fedex``, as on the command line; without axes there is one run."""
    return " ".join(f"{key}={value}" for key, value in values.items()) or "the run"


def _values(values: Mapping[str, Any]) -> str:
    """``0, fedex``: beside a chart whose caption names the axes."""
    return ", ".join(map(str, values.values())) or "all"


def _best(runs: Sequence[Run]) -> list[str]:
    """The best run of every task group, by the metric that its task is judged by.

    Where all runs have a validation part it is chosen by the best round there; else on the test part after the last.
    """
    lines = []
    for group in _groups(runs):
        found = [(run, run["task_groups"][group]) for run in runs if group in run["task_groups"]]
        known = [(run, of) for run, of in found if of["after"] is not None and of["better"]]
        if not known:
            continue
        validated = all(of.get("best_validation") is not None for _, of in known)
        by, shown = ("best_validation", "best") if validated else ("after", "after")
        pick = min if known[0][1]["better"] == "lower" else max
        run, of = pick(known, key=lambda each: each[1][by])
        name = of["metric"].replace("_", " ")
        chosen = f"round {of['best_round']}, chosen on the validation part" if validated else "chosen on the test part"
        where = f"run {run['number']}, {_label(run['values'])}"
        lines.append(f"{group}: best {name} {format_number(of[shown])} in {where} ({chosen})")
    return lines


def _metrics(record: Mapping[str, Any]) -> str:
    """A chart a task group: means over seeds with their spread, else the runs."""
    groups = _groups(record["runs"])
    made = []
    for number, group in enumerate(groups):
        seeds = record.get("over_seeds")
        rows = _means(seeds, group) if seeds else _single(record["runs"], group)
        axes = list((seeds or record["runs"])[0]["values"])
        if not rows:
            continue
        metric = next(run["task_groups"][group]["metric"] for run in record["runs"] if group in run["task_groups"])
        name = str(metric).replace("_", " ")
        what = "mean over seeds, plus and minus a standard deviation" if seeds else "after the last round"
        left = f" Not drawn: {len(rows) - MAX_RUNS} more." if len(rows) > MAX_RUNS else ""
        by = f" by {', '.join(axes)}" if axes else ""
        caption = f"{group}: test {name}{by}, {what}.{left}"
        picture = interval_chart(rows[:MAX_RUNS], colour_of_group(number), name, caption)
        data = [(row.label, row.value, row.low, row.high) for row in rows]
        made.append(
            figure(picture, caption, [words("values"), *map(figures, (name, "low", "high"))], data, "sweep.json")
        )
    return figures_beside(made)


def _single(runs: Sequence[Run], group: str) -> list[Estimate]:
    found = [(run, (run["task_groups"].get(group) or {}).get("after")) for run in runs]
    return [
        Estimate(f"{run['number']}: {_values(run['values'])}", value, value, value, format_number(value))
        for run, value in found
        if value is not None
    ]


def _means(seeds: Sequence[Mapping[str, Any]], group: str) -> list[Estimate]:
    rows = []
    for combination in seeds:
        found = combination["task_groups"].get(group)
        if found:
            mean, sd = found["mean"], found["sd"] or 0.0
            rows.append(Estimate(_values(combination["values"]), mean, mean - sd, mean + sd, format_number(mean)))
    return rows


def _against_bytes(runs: Sequence[Run]) -> str:
    """Metric against bytes: what a run's figure cost."""
    metrics: dict[str, dict[str, list[tuple[int, float, float]]]] = {}
    for run in runs:
        for group, found in run["task_groups"].items():
            if found["after"] is not None:
                point = (run["number"], (found["bytes_up"] + found["bytes_down"]) / MB, found["after"])
                metrics.setdefault(found["metric"], {}).setdefault(group, []).append(point)
    made = []
    for metric, groups in metrics.items():
        name = metric.replace("_", " ")
        lines = [
            Line(group, [(x, y) for _, x, y in points], number, marks=[str(run) for run, _, _ in points])
            for number, group in enumerate(_groups(runs))
            if (points := groups.get(group, [])[:MAX_RUNS])
        ]
        caption = f"Test {name} against all bytes of the run, set-up included; numbers are those of the runs."
        data = [(group, *point) for group, points in groups.items() for point in points]
        columns = [words("task group"), *map(figures, ("run", "MB", name))]
        picture = line_chart(lines, "MB", name, caption, rounds=False)
        made.append(figure(picture, caption, columns, data, "sweep.json"))
    return figures_beside(made)


def _runs(folder: Path, runs: Sequence[Run]) -> str:
    """A row a run and task group."""
    columns = [figures("run"), *map(words, ("values", "status", "task group", "metric"))]
    columns += [*map(figures, ("after", "MB", "seconds")), words("directory or failure")]
    rows: list[tuple[Cell, ...]] = []
    for run in runs:
        where = run["error"] or _directory(folder, run["run"])
        for group, found in run["task_groups"].items() or [(None, {})]:
            sent = (found["bytes_up"] + found["bytes_down"]) / MB if found else None
            of_group = (group, found.get("metric"), found.get("after"), sent)
            rows.append((run["number"], _label(run["values"]), run["status"], *of_group, run["seconds"], where))
    return table(columns, rows, "Runs, a row for each of their task groups", "sweep.json")


def _directory(folder: Path, run: str | None) -> Cell:
    """The name of the run directory, which leads to its report where it lies beside the sweep's."""
    if run is None:
        return None
    path = Path(run)
    beside = path.parent.resolve() == folder.parent.resolve()
    return Link(path.name, f"../{path.name}/report.html") if beside else path.name


def _over_seeds(combinations: Sequence[Mapping[str, Any]]) -> str:
    columns = [
        words("values"),
        words("task group"),
        words("metric"),
        *map(figures, ("mean", "sd", "finished", "seeds")),
    ]
    rows = [
        (_label(each["values"]), group, found["metric"], found["mean"], found["sd"], found["n"], each["seeds"])
        for each in combinations
        for group, found in each["task_groups"].items()
    ]
    return table(columns, rows, "Mean and standard deviation of the sample (n - 1) over seeds", "sweep.json")
