"""Bytes on the wire and bytes in memory, in the same colours: weights, activations, what is trained."""

from __future__ import annotations

from atlas_cli.reports import memory as memory_rows
from atlas_cli.reports.charts.bars import MAX_BARS, Bar, bar_chart
from atlas_cli.reports.memory import Holder
from atlas_cli.reports.page.elements import Cell, figure, figures, notes, words
from atlas_cli.reports.page.records import RunRecords
from atlas_cli.runs.schemas import KINDS
from atlas_cli.units import MB, MIB, format_bytes_mb, format_bytes_mib

KIND_COLOURS = {
    **dict.fromkeys(("base-weights", "base-change", "base-total"), "weights"),
    **dict.fromkeys(("activations", "gradients", "features", "feature-gradients"), "activations"),
    **dict.fromkeys(("adapters", "control-variates", "head"), "trained"),
}
PART_COLOURS = {
    "frozen_weights": "weights",
    **dict.fromkeys(("saved_activations", "cut_buffers"), "activations"),
    **dict.fromkeys(("adapters", "heads", "gradients", "optimizer"), "trained"),
}
WIRE = {
    "weights": "frozen weights",
    "activations": "activations and their gradients",
    "trained": "adapters and heads",
    "other": "labels, fingerprints",
}
HELD = {
    "weights": "frozen weights",
    "activations": "activations and cut buffers",
    "trained": "adapters, heads, gradients, optimizer",
}


def wire(records: RunRecords) -> str:
    """Bytes by kind and direction on one axis, and whether tensors are as long as the closed form says."""
    if not records.messages:
        return ""
    sums: dict[tuple[str, str], dict[str, int]] = {}
    for row in records.messages:
        line = sums.setdefault(
            (row["direction"], row["kind"]), dict.fromkeys(("n", "bytes", "tensors", "wrong", "un"), 0)
        )
        formula = row["closed_form_bytes"]
        line["n"] += row["messages"]
        line["bytes"] += row["bytes"]
        line["tensors"] += row["payload_bytes"]
        line["un"] += formula is None
        line["wrong"] += formula is not None and formula != row["payload_bytes"]
    ordered = sorted(sums.items(), key=lambda item: (item[0][0] == "down", KINDS.index(item[0][1])))
    bars = [
        Bar(f"{kind}, {way}", {KIND_COLOURS.get(kind, "other"): line["bytes"] / MB}, format_bytes_mb(line["bytes"]))
        for (way, kind), line in ordered
    ]
    caption = (
        "Bytes that crossed the wire in the whole run, by kind and direction (up: to the server); one axis for all"
    )
    columns = [
        words("message"),
        words("direction"),
        *map(figures, ("messages", "bytes as sent", "tensors in them", "headers")),
    ]
    columns.append(words("tensors against the closed form"))
    rows = [
        (kind, way, line["n"], line["bytes"], line["tensors"], _headers(line), _check(line))
        for (way, kind), line in ordered
    ]
    picture = bar_chart(bars, WIRE, "MB as sent (1 MB = 1,000,000 bytes)", caption)
    return figure(picture, caption, columns, rows, "messages.jsonl", below="The byte ledger")


def _headers(line: dict[str, int]) -> str:
    """Their share of the bytes."""
    return f"{1 - line['tensors'] / line['bytes']:.2%}" if line["bytes"] else ""


def _check(line: dict[str, int]) -> str:
    if line["wrong"]:
        return f"{line['wrong']} lines differ"
    return "no formula" if line["un"] else "equal"


def memory(records: RunRecords) -> str:
    """Memory by holder and part beside the references."""
    if records.memory is None:
        return ""
    rows = memory_rows.holders(records.memory, MAX_BARS)
    clients = [row for row in rows if row.clients]
    hidden = sorted(clients, key=lambda row: -row.total)[MAX_BARS:]
    shown = [row for row in rows if row not in hidden]
    caption = f"Memory by holder and part, on one axis. {_left_out(clients, hidden, len(records.memory['clients']))}"
    bars = [Bar(row.label, _by_colour(row), format_bytes_mib(row.total)) for row in shown]
    picture = bar_chart(bars, HELD, "MiB (1 MiB = 1,048,576 bytes)", caption.strip())
    columns = [words("holder"), *map(figures, [*memory_rows.PARTS.values(), "total"])]
    lines: list[tuple[Cell, ...]] = [(row.label, *memory_rows.cells(row)) for row in rows]
    remarks = memory_rows.remarks(records.memory, records.manifest.get("process_rss_peak"))
    below = "Memory while training, in MiB"
    return figure(picture, caption.strip(), columns, lines, "memory.json", below) + notes(
        f"{remark[0].upper()}{remark[1:]}." for remark in [*memory_rows.sources(rows), *remarks]
    )


def _by_colour(row: Holder) -> dict[str, float]:
    found = dict.fromkeys(HELD, 0.0)
    for part, size in row.parts.items():
        found[PART_COLOURS[part]] += (size or 0) / MIB
    return found


def _left_out(clients: list[Holder], hidden: list[Holder], total: int) -> str:
    """Which clients share a bar, and which have none; empty where each has its own."""
    notes = []
    if len(clients) < total:
        notes.append(f"{total:,} clients by kind; a bar shows the client of its kind with the largest total.")
    if hidden:
        notes.append(
            f"Not shown: {sum(row.clients for row in hidden)} clients in {len(hidden)} bars with smaller totals."
        )
    return " ".join(notes)
