"""The page, docs/results/beside-others.md: its text is page.md here, and its figures are those on record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from beside.pictures import MODELS, memory, model_of
from beside.record import Figure, Part, Record

PAGE = Path(__file__).parents[2] / "docs" / "results" / "beside-others.md"
TEXT = Path(__file__).with_name("page.md")
OPTIONAL = ("flower", "rounds")  # of which the page says where they were not measured
SAYS = {
    "trainer": "Speed of atlas with the Trainer as 1, and memory of a participant",
    "split": "Speed of atlas with a naive split as 1",
    "flower": "Speed of rounds of atlas with Flower's simulation as 1",
    "rounds": "Speed of rounds of atlas with OpenFedLLM's loop as 1",
}


def text(record: Record) -> str:
    """The page.

    Raises:
        KeyError: a part that it shows is not on record.
    """
    client, half, whole = (f"{size:.0f}" for size in memory(record).values())
    measured = {name: comparison(record, name) for name in SAYS}
    medians = {
        "trainer_medians": _medians(record["trainer"].figures, "PEFT + Trainer, unsplit"),
        "split_medians": _medians(record["split"].figures, "naive split, dynamic padding"),
    }
    return Template(TEXT.read_text(encoding="utf-8")).substitute(
        **measured,
        **medians,
        **facts(record["flower facts"].found, record["peft facts"].found),
        client=client,
        half=half,
        whole=whole,
        flwr=record["flower facts"].found["flwr"],
        installs=installs(record["installs"].found),
        conditions=conditions(record),
    )


def facts(flower: Mapping[str, Any], peft: Mapping[str, Any]) -> dict[str, str]:
    """What checks found, as the table says it."""
    stops = flower["unequal ranks"].partition(":")[0]
    return {
        "ranks": " and ".join(map(str, peft["ranks"])),
        "cat": peft["cat"],
        "svd": peft["svd"],
        "linear": peft["linear"] if peft["linear"].startswith("rank") else "an error",
        "unequal": "`FedAvg` merges them" if stops.startswith("(") else f"`FedAvg` stops with `{stops}`",
        "messages": "a mod logs those of each message" if flower["message sizes"] else "not of each message",
        "sums": "a run's are added up" if flower["bytes of a run"] else "not of a run",
        "resumes": "yes" if peft["resumes"] else "no",
        "again": "can start at a later round" if flower["first round"] else "starts at round 1",
        "accountant": "an accountant for fixed clipping" if flower["accountant"] else "no accountant",
        "secure": "secure aggregation" if flower["secure aggregation"] else "no secure aggregation",
        "strategies": str(len(flower["strategies"])),
    }


def line(figure: Figure) -> str:
    """A row as it is printed while measuring."""
    rates = ", ".join(f"{name} {value:.1f}" for name, value in figure.rates.items())
    spread = f"{figure.q1:.2f} to {figure.q3:.2f} ({figure.n})" if figure.n > 1 else ""
    return f"| {figure.against} | {figure.work} | {figure.median:.2f} | {spread} | {rates} |"


def comparison(record: Record, name: str) -> str:
    """Picture and table; or that it was not measured."""
    if name not in record:
        return "**Not measured in this record.** The command below does it."
    schemes = ("light", "dark")
    pictures = [f"![{SAYS[name]}](../images/beside-{name}-{scheme}.svg#only-{scheme})" for scheme in schemes]
    measured = {model_of(figure) for figure in record[name].figures}
    lacking = [f"\n{model} was not measured in this record." for model in MODELS.values() if model not in measured]
    return "\n".join([*pictures, "", speeds(record[name].figures), *lacking])


def speeds(figures: Sequence[Figure]) -> str:
    """A table of ratios."""
    heads = (
        "atlas against",
        "work",
        "times as fast",
        "quartiles (turns)",
        "by processor time",
        "texts/s: atlas, other",
    )
    rows = []
    for figure in figures:
        spread = f"{figure.q1:.2f} to {figure.q3:.2f} ({figure.n})"
        own = figure.processor
        computed = f"{own['median']:.2f} ({own['q1']:.2f} to {own['q3']:.2f})" if own else "not known"
        speeds = ", ".join(f"{rate:.1f}" for rate in figure.rates.values())
        rows.append((figure.against, figure.work, f"{figure.median:.2f}", spread, computed, speeds))
    return _table(heads, rows)


def installs(found: Sequence[Mapping[str, str]]) -> str:
    """A table of what pip answered."""
    rows = [(f["system"], f"`{f['requirement']}`", f["python"], f["said"].removeprefix("ERROR: ")) for f in found]
    return _table(("system", "asked for", "Python", "answer"), rows)


def conditions(record: Record) -> str:
    """A table of dates, commits, versions, processors and load."""
    heads = ("part", "date", "commit of atlas", "versions", "processor", "threads", "load before, after", "seconds")
    return _table(heads, [_condition(name, part) for name, part in record.items()])


def _condition(name: str, part: Part) -> Sequence[str]:
    has = part.conditions
    versions = ", ".join(f"{package} {version}" for package, version in has["versions"].items())
    commit = has["commit"][:10] + (" with changes" if has["changed"] else "")
    own = (f"{has['threads']}", ", ".join(map(str, has["load"])), f"{has['seconds']}") if "load" in has else ("",) * 3
    cores = f", {has['cores']} cores" if "cores" in has else ""
    return (name, has["date"], commit, versions, has["cpu"] + cores, *own)


def _medians(figures: Sequence[Figure], against: str) -> str:
    return " and ".join(f"{f.median:.2f} ({model_of(f)})" for f in figures if f.against == against)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ("---",) * len(heads), *rows))
