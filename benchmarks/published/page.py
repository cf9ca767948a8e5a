"""The page of all claims, docs/results/published.md: written from the files about papers and what is on record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import ModuleType

from paired import Interval

from published.claim import RULE, VERDICTS, Claim, Paper, Value
from published.ranked import STAND_IN
from published.records import Record, Records

PAGE = Path(__file__).parents[2] / "docs" / "results" / "published.md"
INTRODUCTION = f"""# Published figures, reproduced

What papers of this field report, beside what atlas gives: one line a claim, from the files in benchmarks/published/,
one a paper. Settings and intervals are written down before anything is measured, and nothing is chosen so that it
agrees. A claim that is not reproduced stays here, with what was found out about it.

`python benchmarks/published/all.py` measures all of them again (`--quick`: those that take seconds; a paper's file
name: its claims), and ends with 1 where a verdict is worse than here. `--write` writes this page.

Verdicts: {RULE}

What stands under "atlas" comes from its own code: plans, messages and their ledger, merges, attacks, runs. Models that
are planned are the published ones; what is trained or attacked is a small stand-in, and called one. "Second hand" marks
sources whose figures were read in a review, a note or a port. Where a figure stands is said by table, figure, equation
or section, or by what it is about where none was known; not by page, which differs between versions of a preprint.
"""


def text(modules: Mapping[str, ModuleType], records: Records) -> str:
    """The page."""
    known = {name: claims for name in modules if (claims := _recorded(modules[name], records.get(name, {})))}
    count = Counter(record.verdict for claims in known.values() for _, record in claims)
    verdicts = ", ".join(f"{count[verdict]} {verdict}" for verdict in VERDICTS if count[verdict])
    parts = [INTRODUCTION, f"{count.total()} claims of {len(known)} sources: {verdicts}.\n"]
    parts += [section(name, modules[name].PAPER, claims) for name, claims in known.items()]
    return "\n".join([*parts, f"## Words\n\n{STAND_IN}", conditions(known)])


def _recorded(module: ModuleType, records: Mapping[str, Record]) -> Sequence[tuple[Claim, Record]]:
    return [(claim, records[claim.name]) for claim in module.claims() if claim.name in records]


def section(name: str, paper: Paper, claims: Sequence[tuple[Claim, Record]]) -> str:
    """A paper's claims: a table, and what there is to say of each."""
    source = paper.number if paper.url is None else f"[{paper.number}]({paper.url})"
    heads = ("claim", "where", "paper", "atlas", "verdict")
    rows = [heads, ("---",) * len(heads)]
    for claim, record in claims:
        published = " / ".join(record.printed.values())
        here = " / ".join(shown(value, record.printed[name]) for name, value in record.measured.items())
        rows.append((claim.name, claim.where, published, here, record.verdict))
    secondary = ", second hand" if paper.secondary else ""
    return "\n".join(
        [
            f"## {paper.name}\n",
            f"{source}{secondary}; benchmarks/published/{name}.py.\n",
            *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows),
            "",
            *notes([claim for claim, _ in claims]),
            "",
        ]
    )


def notes(claims: Sequence[Claim]) -> Iterator[str]:
    """Settings, changes and findings; what claims beside each other share stands once."""
    for (setting, changed, interval), alike in groupby(claims, key=lambda c: (c.setting, c.changed, c.interval)):
        group = list(alike)
        parts = [f"{named(group)}: {setting}."]
        if changed:
            parts.append(f"Changed: {changed}")
        if interval:
            parts.append(f"Interval: {100 * interval:g} % of the figure.")
        if len({claim.found for claim in group}) == 1:
            parts += [f"Found: {group[0].found}"] if group[0].found else []
            yield "- " + " ".join(parts)
        else:
            yield "- " + " ".join(parts)
            yield from (f"    - {claim.name}: {claim.found}" for claim in group if claim.found)


def named(claims: Sequence[Claim]) -> str:
    """Their names, each with the names of its figures, or all with those that they share."""
    figures = [" / ".join(figure.name for figure in claim.figures) for claim in claims]
    shared = f" ({figures[0]})" if len(set(figures)) == 1 else ""
    own = ["" if shared else f" ({each})" for each in figures]
    return ", ".join(f"**{claim.name}**{each}" for claim, each in zip(claims, own, strict=True)) + shared


def shown(value: Value, printed: str) -> str:
    """A measured value with the digits of the published one."""
    if value is None:
        return "none"
    decimals = len(printed.partition(".")[2])
    if isinstance(value, Interval):
        half = "" if value.half is None else f" ± {value.half:.{decimals}f}"
        return f"{value.mean:+.{decimals}f}{half}"
    if decimals == 0 and value and abs(value) < 0.5:
        return f"{value:.1g}"
    return f"{value:,.{decimals}f}"


def conditions(known: Mapping[str, Sequence[tuple[Claim, Record]]]) -> str:
    """Dates, commits and versions, and what was measured under them."""
    papers: dict[str, list[str]] = {}
    for name, claims in known.items():
        for under in dict.fromkeys(_under(record) for _, record in claims):
            papers.setdefault(under, []).append(name)
    lines = [f"- {under}: `python benchmarks/published/all.py {' '.join(names)}`" for under, names in papers.items()]
    return "\n".join(["## Measured\n", *lines, ""])


def _under(record: Record) -> str:
    has = record.conditions
    versions = ", ".join(f"{name} {version}" for name, version in has["versions"].items())
    commit = (has["commit"] or "unknown")[:10] + (" with changes" if has["changed"] else "")
    return f"{has['date']}, commit {commit}, {versions}, {has['cpu']}"
