"""Epsilon and mechanism of every channel; without a mechanism one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atlas_cli.reports.page.elements import Cell, notes, paragraph, table, words
from atlas_cli.reports.page.records import RunRecords
from atlas_cli.reports.privacy import DIAGNOSTIC, in_words, norms_in_words, worst
from atlas_cli.reports.summary import Record


def privacy(records: RunRecords) -> str:
    """A row a channel and mechanism, and what clipping and noise did to norms."""
    if not records.metrics:
        return ""
    mechanisms: Mapping[str, Mapping[str, Any]] = (records.manifest.get("privacy") or {}).get("mechanisms", {})
    epsilon = worst(records.metrics)
    if not mechanisms:
        sent = [channel for channel, value in epsilon.items() if value]
        kept = [channel for channel, value in epsilon.items() if not value]
        unsent = f" Not sent: {', '.join(kept)}." if kept else ""
        return paragraph(
            f"No privacy mechanism: nothing bounds what {', '.join(sent)} tell (epsilon infinite).{unsent}"
        )
    rows = []
    for channel, value in epsilon.items():
        names = [name for name, facts in mechanisms.items() if facts["channel"] == channel] or [""]
        rows += [_row(channel, in_words(value), name, mechanisms.get(name, {})) for name in names]
    rows += [_row("any", "none", name, facts) for name, facts in mechanisms.items() if facts["channel"] is None]
    columns = [words(name) for name in ("channel", "epsilon", "of one", "mechanism", "noise", "what it hides")]
    said = (
        f"Epsilon after all rounds at delta {records.metrics[-1]['delta']:g}, the largest of all task groups. It "
        "bounds what one channel adds to what the others tell, for those who do not know the seed of the run. "
        "Infinite: nothing bounds it."
    )
    return table(columns, rows, "Epsilon by channel and mechanism") + paragraph(said) + _norms(records.metrics)


def _norms(metrics: Sequence[Record]) -> str:
    """Of the last round that has any, a line a task group and mechanism; empty without a mechanism that clips."""
    last = max((row["round"] for row in metrics if row.get("norms")), default=None)
    lines = [
        f"{row['task_group']}, {name}: {norms_in_words(norms)}"
        for row in metrics
        if row["round"] == last
        for name, norms in (row.get("norms") or {}).items()
    ]
    said = f"Before and after clipping and noise in round {last}, means over clients. {DIAGNOSTIC}."
    return paragraph(said) + notes(lines) if lines else ""


def _row(channel: str, epsilon: str, name: str, facts: Mapping[str, Any]) -> tuple[Cell, ...]:
    noise = facts.get("noise_multiplier")
    amount = None if noise is None else f"{noise:.3g} x clip {facts['clip']:.3g}"
    return channel, epsilon, facts.get("unit"), name or "none", amount, facts.get("protects", "nothing")
