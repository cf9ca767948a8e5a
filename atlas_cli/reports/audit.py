"""The results of an audit, as a table and in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from atlas_cli.reports.privacy import DIAGNOSTIC, epsilon_in_words, norms_in_words

HEADINGS = ("attack", "figure (95 %)", "chance", "best", "floor", "n")


def rows(audit: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row of texts for every attack that ran, by ``HEADINGS``."""
    return [
        (
            found["attack"],
            f"{_number(found['value'])} ({_number(found['low'])} to {_number(found['high'])})",
            _number(found["chance"]),
            _number(found["best"]),
            "-" if found["floor"] is None else _number(found["floor"]),
            str(found["examples"]),
        )
        for found in audit["attacks"]
    ]


def audit_table(audit: Mapping[str, Any]) -> Table:
    """One row an attack."""
    title = f"what the messages of {audit['run']} give away"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, no_wrap=True)
    for row in rows(audit):
        table.add_row(*row)
    return table


def worlds_table(found: Mapping[str, Any]) -> Table:
    """How well rounds with and without a client are told apart, and both controls."""
    title = f"rounds with and without {found['client']}, told apart by the merged adapter"
    table = Table("worlds", "AUC", "95 %", "advantage", "epsilon at least", "runs", title=title, box=None)
    for name, verdict in found.items():
        if isinstance(verdict, Mapping) and "auc" in verdict:
            interval = f"{verdict['low']:.3f} to {verdict['high']:.3f}"
            numbers = (f"{verdict['auc']:.3f}", interval, f"{verdict['advantage']:.3f}", f"{verdict['epsilon']:.2f}")
            table.add_row(name, *numbers, str(verdict["runs"]))
    return table


def attack_notes(audit: Mapping[str, Any]) -> list[str]:
    """What every attack measured, where, and what its adversary knows."""
    return [
        f"{a['attack']}, on {a['channel']}: {a['what']}; the adversary knows {a['knows']}" for a in audit["attacks"]
    ]


def audit_notes(audit: Mapping[str, Any]) -> list[str]:
    """What was not measured and why, notes of attacks, and the score with what it means."""
    notes = [f"not measured: {name}: {reason}" for name, reason in audit["not_measured"].items()]
    notes += [f"{found['attack']}: {found['note']}" for found in audit["attacks"] if found["note"]]
    for each in audit["update_norms"]:
        size = f"median {each['median']:.3g}, largest {each['of_median'] or 0:.3g} times that"
        notes.append(f"norms of updates as sent in round {each['round']}: {size} (a diagnostic, no measure of privacy)")
        without = each.get("unknown", {})
        notes += [f"norm of the update of {client} in round {each['round']}: {why}" for client, why in without.items()]
    for each in audit.get("norms", []):
        place = f"{each['mechanism']} of {each['task_group']} in round {each['round']}"
        notes.append(f"{place}: {norms_in_words(each)} ({DIAGNOSTIC[0].lower()}{DIAGNOSTIC[1:]})")
    for group, channels in audit["epsilon"].items():
        figures = ", ".join(epsilon_in_words(audit, name, e) for name, e in channels.items())
        notes.append(f"epsilon of {group} at delta {audit['delta']:g}: {figures}")
    score = audit["privacy_score"]
    if score is None:
        return [*notes, "privacy score: none, as nothing was attacked"]
    worst = max(audit["attacks"], key=lambda found: found["advantage"])
    meaning = f"1 - advantage of the worst attack at the upper end of its interval: {worst['attack']}"
    return [*notes, f"privacy score {_number(score)} ({meaning}); an attack that nobody tried may be worse"]


def _number(value: float) -> str:
    return f"{value:.2g}" if 0 < value < 0.01 else f"{value:.3f}"
