"""What was proven: the split against the unsplit model, deliveries by hash, bytes by formula, frozen weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atlas_cli.reports.page.elements import Cell, definitions, figures, paragraph, table, words
from atlas_cli.reports.page.records import RunRecords, counted, listed
from atlas_cli.reports.summary import Record

SHOWN = 30  # clients that are named where hashes differ


def verdict(records: RunRecords) -> tuple[bool | None, list[str]]:
    """Whether all that was checked holds, and each check in a sentence; None while nothing was checked."""
    checks = [*_split(records), *_deliveries(records), *_bytes(records), *_frozen(records)]
    holds = all(good for good, _ in checks) if checks else None
    return holds, [sentence for _, sentence in checks] or ["Nothing was checked yet."]


def _split(records: RunRecords) -> list[tuple[bool, str]]:
    verify = records.manifest.get("verify") or {}
    if not verify:
        return []
    largest = max(max(c["loss_difference"], c["gradient_difference"]) for c in verify.values())
    good = all(max(c["loss_difference"], c["gradient_difference"]) <= c["tolerance"] for c in verify.values())
    limit = max(c["tolerance"] for c in verify.values())
    apart = f"at most {largest:.2g} apart" if largest else "no difference"
    says = "are those of the unsplit model" if good else "DIFFER from the unsplit model"
    return [(good, f"Loss and gradients through the split {says}: {apart}, limit {limit:.2g}.")]


def _deliveries(records: RunRecords) -> list[tuple[bool, str]]:
    checked, wrong = _hashes(records.clients)
    if not checked:
        return []
    if wrong:
        return [(False, f"{counted(len(wrong), 'client state')} of {checked:,} DIFFER from what was delivered.")]
    return [(True, f"All {checked:,} adapters that clients held are, by hash, those that were delivered.")]


def _bytes(records: RunRecords) -> list[tuple[bool, str]]:
    rows = [row for row in records.messages if row["closed_form_bytes"] is not None]
    if not rows:
        return []
    wrong = sum(row["closed_form_bytes"] != row["payload_bytes"] for row in rows)
    total, every = (sum(row["messages"] for row in of) for of in (rows, records.messages))
    which = f"all {counted(total, 'message')}" if total == every else f"{total:,} of {every:,} messages"
    if wrong:
        return [(False, f"{counted(wrong, 'count')} of bytes DIFFER from the closed form.")]
    return [(True, f"The bytes of {which} equal their closed form.")]


def _frozen(records: RunRecords) -> list[tuple[bool, str]]:
    if "base_unchanged" not in records.manifest:
        return []
    good = bool(records.manifest["base_unchanged"])
    return [(good, "Frozen weights are unchanged by hash." if good else "Frozen weights CHANGED during the run.")]


def _hashes(clients: Sequence[Record]) -> tuple[int, list[Record]]:
    """How many states of clients were compared, and those that are not what was delivered."""
    checked = [r for r in clients if r["held_sha256"] is not None and r["delivered_sha256"] is not None]
    return len(checked), [r for r in checked if r["held_sha256"] != r["delivered_sha256"]]


def proof(records: RunRecords) -> str:
    """The checks in detail."""
    checked, wrong = _hashes(records.clients)
    rows = {"adapters held = delivered": f"{checked - len(wrong)} of {checked} hashes are equal"} if checked else {}
    if wrong:
        rows["not equal"] = listed([f"{r['client']} in round {r['round']}" for r in wrong], SHOWN)
    if "base_unchanged" in records.manifest:
        rows["frozen weights"] = "unchanged by hash" if records.manifest["base_unchanged"] else "CHANGED during the run"
    shown = definitions(rows) if rows else ""
    verify = records.manifest.get("verify")
    if not verify:
        return shown + paragraph("Split against unsplit: not checked in this run.")
    columns = (words("task group"), *map(figures, ("examples", "padding tokens", "loss differs by")))
    columns += (
        figures("gradients differ by"),
        figures("limit"),
        words("loss, gradients differ by in a pass without padding"),
    )
    lines = [_check_row(group, check) for group, check in verify.items()]
    return shown + table(columns, lines, "The split against the unsplit model, on the run's own data")


def _check_row(group: str, check: Mapping[str, Any]) -> tuple[Cell, ...]:
    differences = (f"{check[name]:.2g}" for name in ("loss_difference", "gradient_difference", "tolerance"))
    packed = [check[f"packed_{of}_difference"] for of in ("loss", "gradient") if f"packed_{of}_difference" in check]
    without = ", ".join(f"{difference:.2g}" for difference in packed) or "not trained so"
    return (group, check["examples"], check["padding_tokens"], *differences, without)
