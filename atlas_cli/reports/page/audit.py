"""What attacks on the recorded messages recover, between a guess and everything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atlas_cli.reports import audit as audits
from atlas_cli.reports.charts.intervals import Estimate, interval_chart
from atlas_cli.reports.page.elements import figure, figures, notes, paragraph, words
from atlas_cli.reports.page.records import RunRecords


def audit(records: RunRecords) -> str:
    """A chart and a row for every attack that ran, and what else is to be known."""
    if records.audit is None:
        return ""
    found = records.audit["attacks"]
    remarks = notes(audits.audit_notes(records.audit))
    if not found:
        return paragraph("No attack could be run.") + remarks
    columns = [words("attack"), *map(figures, audits.HEADINGS[1:])]
    columns += [words("what"), words("on"), words("the adversary knows")]
    told = [(attack["what"], attack["channel"], attack["knows"]) for attack in found]
    rows = [(*row, *more) for row, more in zip(audits.rows(records.audit), told, strict=True)]
    caption = (
        "Attacks on the recorded messages, from a guess (0) to all there is (1); the upright stroke is who knows only "
        "what is common"
    )
    picture = interval_chart([_estimate(attack) for attack in found], "ink", "of what could be recovered", caption)
    return figure(picture, caption, columns, rows, "audit.json", below="Attacks") + remarks


def _estimate(attack: Mapping[str, Any]) -> Estimate:
    """On one scale for all attacks: 0 is chance, and 1 the best that an attack could do."""
    chance, span = attack["chance"], attack["best"] - attack["chance"]

    def gained(value: float) -> float:
        return max(0.0, (value - chance) / span)

    floor = None if attack["floor"] is None else gained(attack["floor"])
    value, *ends = (gained(attack[name]) for name in ("value", "low", "high"))
    return Estimate(attack["attack"], value, min(ends), max(ends), f"{value:.2f}", floor)
