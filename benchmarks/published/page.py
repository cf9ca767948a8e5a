"""The page of all claims, docs/results/published.md: written from the files about papers and what is on record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from published.claim import RULE, VERDICTS, Claim, Paper
from published.records import Record, Records

PAGE = Path(__file__).parents[2] / "docs" / "results" / "published.md"
INTRODUCTION = f"""# Published figures, reproduced

What papers of this field report, beside what atlas gives: one line a claim. Written by
`python benchmarks/published/all.py --write` from the files in benchmarks/published/, one a paper, in which settings and intervals
were written down before anything was measured. A claim that is not reproduced stays here, with what was found out about it.

`python benchmarks/published/all.py` measures all of them again, `--quick` those that take seconds, and ends with 1 where a verdict is
worse than here.

Verdicts: {RULE}

"Here" is always atlas' own code: plans, messages and their ledger, merges, attacks, runs. Models that are planned are the published
ones; what is trained or attacked are small stand-ins, and says so. "Second hand" marks sources whose figures were read in a review, a
note or a port.
"""


def text(modules: Mapping[str, ModuleType], records: Records) -> str:
    """The page."""
    known = {name: claims for name in modules if (claims := _recorded(modules[name], records.get(name, {})))}
    count = Counter(record.verdict for claims in known.values() for _, record in claims)
    total = sum(count.values())
    parts = [INTRODUCTION, f"{total} claims of {len(known)} papers: " + ", ".join(
        f"{count[verdict]} {verdict}" for verdict in VERDICTS if count[verdict]
    ) + ".\n"]
    for name, claims in known.items():
        parts.append(section(modules[name].PAPER, claims))
    return "\n".join(parts)


def _recorded(module: ModuleType, records: Mapping[str, Record]) -> list[tuple[Claim, Record]]:
    return [(claim, records[claim.name]) for claim in module.claims() if claim.name in records]


def section(paper: Paper, claims: list[tuple[Claim, Record]]) -> str:
    """A paper's claims: a table, and what there is to say of each."""
    title = paper.title if paper.url is None else f"[{paper.title}]({paper.url})"
    lines = [f"## {paper.title}\n"]
    source = f"Source: {title}" + (", second hand." if paper.secondary else ".")
    lines += ["| claim | where | paper | atlas | verdict |", "| --- | --- | --- | --- | --- |"]
    for claim, record in claims:
        published = " / ".join(record.printed.values())
        here = " / ".join(shown(value, record.printed[name]) for name, value in record.measured.items())
        lines.append(f"| {claim.name} | {claim.where} | {published} | {here} | {record.verdict} |")
    lines.append("")
    lines.append(source + "\n")
    lines += [note(claim) for claim, _ in claims]
    lines.append("\n" + "; ".join(sorted({_conditions(record) for _, record in claims})) + ".\n")
    return "\n".join(lines)


def note(claim: Claim) -> str:
    """Setting, changes and findings of a claim."""
    names = " / ".join(figure.name for figure in claim.figures)
    parts = [f"**{claim.name}** ({names}): {claim.setting}."]
    if claim.changed:
        parts.append(f"Changed: {claim.changed}")
    if claim.interval:
        parts.append(f"Interval: {100 * claim.interval:g} % of the figure.")
    if claim.found:
        parts.append(f"Found: {claim.found}")
    return "- " + " ".join(parts)


def shown(value: float | None, printed: str) -> str:
    """A measured value with the digits of the published one."""
    if value is None:
        return "none"
    decimals = len(printed.partition(".")[2])
    if decimals == 0 and value and abs(value) < 0.5:
        return f"{value:.1g}"
    return f"{value:,.{decimals}f}"


def _conditions(record: Record) -> str:
    has = record.conditions
    versions = ", ".join(f"{name} {version}" for name, version in has["versions"].items())
    commit = (has["commit"] or "unknown")[:10] + (" with changes" if has["changed"] else "")
    return f"`{has['command']}`, {has['date']}, commit {commit}, {versions}"
