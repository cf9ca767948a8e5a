"""Figures of ``benchmarks/speed.py`` by commit, in ``benchmarks/history.jsonl``, and their table, a page of the docs.

A ratio is of neighbours in time on one machine, so that ratios of two commits can be compared where rates cannot. They
still depend on the processor and the number of threads: a commit is compared with the one before it on the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from beside.checks import atlas_commit

from atlas_cli.errors import AtlasError
from contestants.comparisons import Result

ROOT = Path(__file__).parents[2]
HISTORY = ROOT / "benchmarks" / "history.jsonl"
PAGE = ROOT / "docs" / "results" / "speed-history.md"
COLUMNS = 6  # commits that the table shows, the newest; the file has all
ALIKE = ("processor", "threads", "python", "torch", "quick", "overrides")  # what two commits have to share
FELL, ROSE = "▼", "▲"
_HEAD = f"""# Speed by commit

Did a change make atlas slower? One column a commit of the package, the newest last: how many times as much text a
second as the other way (of memory: its share, where less is better), the median over turns and its quartiles.

{FELL} marks a figure that is worse than at the commit before on the same processor, threads and versions, {ROSE} one
that is better: the quartiles of the two do not overlap. Chance marks one now and then, the more so with three turns, so
that a mark is a reason to measure again, and no proof. What is compared is told in [speed, measured](speed.md). That
the work itself has not grown (passes, calls, FLOPs) is held by tests; times are not.

```bash
python benchmarks/speed.py --quick --history
```

appends a line to `benchmarks/history.jsonl` and writes this page. It asks that the package is as committed, and is best
run while nothing else does: the load is noted beside each commit.
"""

Line = Mapping[str, Any]


def unchanged_commit() -> str:
    """The last commit that changed the package.

    Raises:
        AtlasError: the package is not as it was committed.
    """
    told = atlas_commit()
    if told["changed"]:
        raise AtlasError("--history: atlas_cli/ has changes that are not committed; commit them first, or leave it out")
    return str(told["commit"])


def line(
    commit: str, machine: Mapping[str, Any], load: Sequence[float | None], found: Sequence[Result]
) -> dict[str, Any]:
    """What is appended for a commit."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "machine": dict(machine),
        "load": list(load),
        "results": [asdict(result) for result in found],
    }


def append(added: Line, path: Path = HISTORY) -> None:
    """Append a line."""
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(added) + "\n")


def read(path: Path = HISTORY) -> list[Line]:
    """All lines, the oldest first; none where there is no file."""
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def page(lines: Sequence[Line]) -> str:
    """The page, Markdown."""
    shown = list(enumerate(lines))[-COLUMNS:]
    names = list(dict.fromkeys((r["against"], r["work"]) for _, each in shown for r in each["results"]))
    table = [
        "| atlas against | work | " + " | ".join(f"{each['commit'][:10]}" for _, each in shown) + " |",
        "|" + " --- |" * (2 + len(shown)),
    ]
    for name in names:
        cells = [cell(lines, number, name) for number, _ in shown]
        table.append(f"| {name[0]} | {name[1]} | " + " | ".join(cells) + " |")
    return "\n".join([_HEAD, *table, "", "## Measured on", "", *(conditions(each) for _, each in shown), ""])


def conditions(each: Line) -> str:
    """A commit with its date, machine and load, an item of a list."""
    machine = ", ".join(f"{key} {value}" for key, value in each["machine"].items())
    load = " before and ".join("not known" if load is None else f"{load:g}" for load in each["load"])
    return f"- {each['commit'][:10]}, {each['date']}: {machine}; load {load} after"


def cell(lines: Sequence[Line], number: int, name: tuple[str, str]) -> str:
    """A figure with its quartiles, and its mark; empty where it was not measured."""
    if (now := _of(lines[number], name)) is None:
        return ""
    figure = now["figure"]
    spread = f" ({figure['q1']:.2f} to {figure['q3']:.2f})" if figure["n"] > 1 else ""
    return f"{figure['median']:.2f}{spread}{mark(before(lines, number, name), now)}"


def before(lines: Sequence[Line], number: int, name: tuple[str, str]) -> Mapping[str, Any] | None:
    """The same figure of the newest line before on the same machine; None: there is none."""
    machine = lines[number]["machine"]
    for each in reversed(lines[:number]):
        alike = all(each["machine"].get(key) == machine.get(key) for key in ALIKE)
        if alike and (found := _of(each, name)) is not None:
            return found
    return None


def mark(then: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
    """Whether a figure is worse or better than it was: its quartiles and those of then do not overlap."""
    if then is None or min(then["figure"]["n"], now["figure"]["n"]) < 2:
        return ""
    was, here = then["figure"], now["figure"]
    lower, higher = here["q3"] < was["q1"], here["q1"] > was["q3"]
    worse, better = (higher, lower) if now["at_most"] else (lower, higher)
    return f" {FELL}" if worse else f" {ROSE}" if better else ""


def _of(each: Line, name: tuple[str, str]) -> Mapping[str, Any] | None:
    return next((r for r in each["results"] if (r["against"], r["work"]) == name), None)
