"""memory.json as rows: each holder with its parts; when there are many clients, those of one kind share a row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from atlas_cli.reports.fitted import layout
from atlas_cli.reports.summary import Record
from atlas_cli.units import format_bytes_mib

PARTS = {
    "frozen_weights": "weights",
    "adapters": "adapters",
    "heads": "heads",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "saved_activations": "saved activations",
    "cut_buffers": "cut buffers",
}
REFERENCES = {"full_fine_tuning": "full fine-tuning", "unsplit_lora": "unsplit LoRA"}
MAX_TABLE_CLIENTS = 12


@dataclass(frozen=True)
class Holder:
    """One bar or table row.

    ``parts`` holds bytes by the keys of ``PARTS``, None where the part does not exist; ``how`` says whether the figures
    were measured or computed; ``clients`` counts the clients that the row stands for.
    """

    label: str
    parts: dict[str, int | None]
    total: int
    how: str
    clients: int = 0


def holders(memory: Record, max_clients: int) -> list[Holder]:
    """Clients, then the server, then the references.

    With more than ``max_clients`` clients, those of one kind (name without its number, same adapter size) become
    one row that shows the client with the largest total.
    """
    how = f"measured in round {memory['measured_in_round']}"
    rows = client_rows(memory["clients"], max_clients, how)
    if memory["server"]:
        rows.append(holder("server", memory["server"], how))
    for key, label in REFERENCES.items():
        reference = memory["references"][key]
        rows.append(holder(label, {**reference, "frozen_weights": reference["weights"]}, reference["how"]))
    return rows


def client_rows(
    clients: Mapping[str, Record], max_clients: int, how: str, columns: Iterable[str] = PARTS
) -> list[Holder]:
    """A row per client, or per kind of client if there are more than ``max_clients``.

    A record with a ``count`` stands for so many clients.
    """
    if sum(parts.get("count", 1) for parts in clients.values()) <= max_clients:
        return [holder(name, parts, how, 1, columns) for name, parts in clients.items()]
    kinds: dict[tuple[str, int], dict[str, Record]] = {}
    for name, parts in clients.items():
        kinds.setdefault((re.sub(r"-\d+$", "", name), parts["adapters"]), {})[name] = parts
    rows = []
    for (prefix, _), alike in kinds.items():
        largest = max(alike, key=lambda name: alike[name]["total"])
        many = sum(parts.get("count", 1) for parts in alike.values())
        same = len({(*(parts.get(key, 0) for key in columns), parts["total"]) for parts in alike.values()}) == 1
        label = largest if many == 1 else f"{prefix} ({many:,} alike)" if same else f"{prefix} (largest of {many:,})"
        rows.append(holder(label, alike[largest], how, many, columns))
    return rows


def memory_table(memory: Record, peak: int | None) -> Table:
    """The table of ``atlas memory-report``, in MiB; ``peak`` is that of the whole process."""
    rows = holders(memory, MAX_TABLE_CLIENTS)
    table = Table(
        title="Memory while training, in MiB (1 MiB = 1,048,576 bytes)",
        caption="\n".join([*sources(rows), *remarks(memory, peak)]),
        **layout(),
    )
    table.add_column("", overflow="fold", min_width=10)
    for heading in [*PARTS.values(), "total"]:
        table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)
    for i, row in enumerate(rows):
        last_client = row.clients > 0 and not (i + 1 < len(rows) and rows[i + 1].clients)
        table.add_row(row.label, *cells(row), end_section=last_client or row.label == "server")
    return table


def remarks(memory: Record, peak: int | None) -> list[str]:
    """Notes on parties that were not measured, and on memory that belongs to no party."""
    names = memory["not_measured"]
    more = f" and {len(names) - MAX_TABLE_CLIENTS} more" if len(names) > MAX_TABLE_CLIENTS else ""
    idle = f"not measured, without a step in round {memory['measured_in_round']}"
    who = [f"{idle}: {', '.join(names[:MAX_TABLE_CLIENTS])}{more}"] if names else []
    known = format_bytes_mib(peak) if peak is not None else "not known"
    rows = [parts["embedding_rows"] for parts in memory["clients"].values() if "embedding_rows" in parts]
    held = f"{min(rows, default=0):,}" + (f" to {max(rows):,}" if len(set(rows)) > 1 else "")
    who += [f"clients with embedding: rows hold {held} rows of the token embedding"] if rows else []
    kept = (memory["server"] or {}).get("kept_activations")
    who += [f"cut buffers of the server: {format_bytes_mib(kept)} kept of texts of frozen clients"] if kept else []
    who += _of_codecs(memory)
    return [*who, f"peak of the whole process, all parties and the program together: {known}"]


def _of_codecs(memory: Record) -> list[str]:
    """What codecs keep of texts, and of adapters and heads, at both ends."""
    found = []
    for key, what in (("kept_texts", "texts"), ("kept_adapters", "adapters and heads")):
        ends = [parts[key] for parts in memory["clients"].values() if key in parts]
        if ends:
            most, server = (format_bytes_mib(size) for size in (max(ends), (memory["server"] or {}).get(key, 0)))
            found.append(
                f"cut buffers: what codecs keep of {what}, at most {most} at a client and {server} at the server"
            )
    return found


def sources(rows: Sequence[Holder]) -> list[str]:
    """One line for each origin of figures, e.g. ``clients, server: measured in round 1``."""
    by_how: dict[str, dict[str, None]] = {}
    for row in rows:
        by_how.setdefault(row.how, {})["clients" if row.clients else row.label] = None
    return [f"{', '.join(labels)}: {how}" for how, labels in by_how.items()]


def cells(row: Holder) -> list[str]:
    """Figures of a row in MiB without the unit, parts first, total last; ``-`` where a part does not exist."""
    figures = [*row.parts.values(), row.total]
    return ["-" if n is None else format_bytes_mib(n).removesuffix(" MiB") for n in figures]


def holder(label: str, parts: Mapping[str, Any], how: str, clients: int = 0, columns: Iterable[str] = PARTS) -> Holder:
    """A row from a record of parts with their ``total``."""
    return Holder(label, {key: parts.get(key) for key in columns}, parts["total"], how, clients)
