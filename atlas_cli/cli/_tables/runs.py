"""The runs of a folder as a table and as records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from atlas_cli.printable import listed
from atlas_cli.reports.fitted import Column, fitted_table
from atlas_cli.reports.listed_runs import ListedRun
from atlas_cli.reports.summary import GroupSummary, chosen_sentence, lowest_sentence
from atlas_cli.units import format_bytes_mb, format_number, format_seconds

MAX_KEYS = 4  # config keys with a column each; more have lines
MAX_SHOWN = 12  # of one run in its line


def runs_table(runs: Sequence[ListedRun], differ: Mapping[str, Sequence[Any]], width: int) -> Table:
    """A row a run. Config keys in which they differ are columns where they are few; else ``config_lines`` has them."""
    up, down = ([_megabytes(run, getattr(run, f"bytes_{way}")) for run in runs] for way in ("up", "down"))
    seconds = ["-" if run.seconds is None else format_seconds(run.seconds) for run in runs]
    keys = differ if len(differ) <= MAX_KEYS else {}
    columns = [
        Column("run", [run.folder for run in runs], folds=True),
        Column("status", [run.state for run in runs]),
        Column("rounds", [_rounds(run) for run in runs], right=True),
        *(Column(_heading(key), [in_words(value) for value in values], folds=True) for key, values in keys.items()),
        Column("best (round)", ["\n".join(map(_best, run.groups)) or "-" for run in runs], folds=True),
        Column("up,\nMB", up, right=True, spare=2),
        Column("down,\nMB", down, right=True, spare=3),
        Column("time", seconds, right=True, spare=1),
    ]
    groups = [group for run in runs for group in run.groups]
    caption = "best (round): of the primary metric of each task group, on the test part\nMB: 1,000,000 bytes"
    if lowest := lowest_sentence({group.metric: group.better for group in groups if group.metric}):
        caption += f"\n{lowest}"
    if chosen := chosen_sentence(groups):
        caption += f"\n{chosen}"
    return fitted_table(columns, width, caption=caption)


def config_lines(runs: Sequence[ListedRun], differ: Mapping[str, Sequence[Any]]) -> list[str]:
    """A line a run with the keys in which they differ, where these are too many for columns."""
    if len(differ) <= MAX_KEYS:
        return []
    lines = []
    for i, run in enumerate(runs):
        own = [f"{key}={in_words(values[i])}" for key, values in differ.items() if values[i] is not None]
        more = f" and {len(own) - MAX_SHOWN} more; --json has all" if len(own) > MAX_SHOWN else ""
        if own:
            lines.append(f"{run.folder}: {' '.join(own[:MAX_SHOWN])}{more}")
    return lines


def problems(runs: Sequence[ListedRun]) -> list[str]:
    """A line for each run that failed or cannot be read, and one for the folders that are no runs."""
    foreign = [f"{run.folder} ({run.problem})" for run in runs if run.state == "foreign"]
    lines = [f"{run.folder}: {run.state}: {run.problem}" for run in runs if run.problem and run.state != "foreign"]
    return [*lines, *([f"no runs: {listed(foreign)}"] if foreign else [])]


def runs_record(folder: str, runs: Sequence[ListedRun], differ: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """All of it as JSON."""
    return {
        "folder": folder,
        "differ_in": list(differ),
        "runs": [
            {
                "run": str(run.path),
                "status": run.state,
                "problem": run.problem,
                "started": run.started,
                "seconds": run.seconds,
                "rounds": run.rounds,
                "planned_rounds": run.planned,
                "bytes_up": run.bytes_up,
                "bytes_down": run.bytes_down,
                "config": {key: values[i] for key, values in differ.items() if values[i] is not None},
                "task_groups": [asdict(group) for group in run.groups],
            }
            for i, run in enumerate(runs)
        ],
    }


def in_words(value: Any) -> str:
    """A value of a config as an override takes it; a dash for none."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _heading(key: str) -> str:
    """A dotted key over as many lines as it has parts."""
    return key.replace(".", ".\n")


def _rounds(run: ListedRun) -> str:
    return "-" if run.state == "damaged" else f"{run.rounds or 0}/{run.planned or '?'}"


def _best(group: GroupSummary) -> str:
    value = "n/a" if group.best is None else f"{format_number(group.best)} ({group.best_round})"
    return f"{group.task_group} {group.metric or ''} {value}"


def _megabytes(run: ListedRun, size: int) -> str:
    return format_bytes_mb(size).removesuffix(" MB") if run.groups else "-"
