"""The table of ``atlas split-point``: a row a split layer, within 100 characters."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

from atlas_cli.planning.cuts import Cut
from atlas_cli.planning.split_point import SplitChoice
from atlas_cli.reports.tables import layout
from atlas_cli.reports.units import format_bytes_mb, format_bytes_mib


def split_table(choice: SplitChoice) -> Table:
    """Parameters, memory in MiB, work and bytes of a step; with a device seconds, and which layers fit."""
    table = Table(title=_title(choice), caption="\n".join(_notes(choice)), **layout())
    headings = ["layer", "params,\nM", "weights", "adapters,\noptimizer", "activations", "other", "peak,\nMiB"]
    headings += ["client\nGFLOP", "server\nGFLOP", "up+down,\nMB"]
    if choice.rows[0].seconds is not None:
        headings += ["client,\ns", "link,\ns", "server,\ns", "step,\ns"]
    if choice.leakage is not None:
        headings.append("tokens\nread")
    if choice.device is not None:
        headings.append("fits")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in choice.rows:
        style = "bold" if row.layer == choice.layer else None
        table.add_row(*_cells(choice, row), style=style)
    return table


def split_record(choice: SplitChoice) -> dict[str, Any]:
    """All of it for ``--json``; sizes in bytes, work in FLOP, times in seconds."""
    return {
        "model": choice.model,
        "split_layer": choice.layer,
        "default": choice.device is None,
        "reason": choice.reason,
        "remedies": list(choice.remedies),
        "feasible": list(choice.feasible) if choice.feasible else None,
        "setting": asdict(choice.setting),
        "device": asdict(choice.device) if choice.device else None,
        "server": {**asdict(choice.server), "assumed": choice.server_assumed} if choice.server else None,
        "saved_activations_by": choice.how,
        "layers": [_record(choice, row) for row in choice.rows],
    }


def _record(choice: SplitChoice, row: Cut) -> dict[str, Any]:
    seconds = row.seconds
    return {
        "layer": row.layer,
        "client_parameters": row.parameters,
        "adapter_parameters": row.adapter_parameters,
        "client_memory": {**asdict(row.memory), "peak": row.memory.peak},
        "server_memory": {**asdict(row.server_memory), "peak": row.server_memory.peak} if row.server_memory else None,
        "client_flops": row.work.total,
        "server_flops": row.server_work.total,
        "bytes_up": row.bytes.up,
        "bytes_down": row.bytes.down,
        "seconds": {**asdict(seconds), "total": seconds.total} if seconds else None,
        "leakage": choice.leakage[row.layer - 1] if choice.leakage else None,
        "fits": _fits(choice, row),
    }


def _cells(choice: SplitChoice, row: Cut) -> list[str]:
    memory = row.memory
    sizes = [
        memory.frozen_weights + memory.heads,
        memory.adapters + memory.gradients + memory.optimizer,
        memory.saved_activations + memory.cut_buffers,
        memory.transient,
        memory.peak,
    ]
    cells = [f"{'> ' if row.layer == choice.layer else ''}{row.layer}", _number(row.parameters / 1e6)]
    cells += [format_bytes_mib(size).removesuffix(" MiB") for size in sizes]
    cells += [_number(row.work.total / 1e9), _number(row.server_work.total / 1e9)]
    cells.append(format_bytes_mb(row.bytes.up + row.bytes.down).removesuffix(" MB"))
    if row.seconds is not None:
        link = row.seconds.upload + row.seconds.download
        cells += [_number(s) for s in (row.seconds.compute, link, row.seconds.server, row.seconds.total)]
    if choice.leakage is not None:
        cells.append(f"{choice.leakage[row.layer - 1]:.0%}")
    if choice.device is not None:
        cells.append("yes" if _fits(choice, row) else "no")
    return cells


def _fits(choice: SplitChoice, row: Cut) -> bool | None:
    if choice.device is None:
        return None
    return choice.feasible is not None and choice.feasible[0] <= row.layer <= choice.feasible[1]


def _title(choice: SplitChoice) -> str:
    s = choice.setting
    checkpointing = ", checkpointing" if s.checkpointing else ""
    return f"{choice.model}: a step of {s.batch} x {s.tokens} tokens, rank {s.rank}, {s.dtype}{checkpointing}"


def _notes(choice: SplitChoice) -> list[str]:
    notes = [
        "memory in MiB (1,048,576 bytes); optimizer: with gradients; activations: saved, and at the cut",
        f"saved activations by {choice.how}; GFLOP and MB (1,000,000 bytes): one step, forward and backward",
    ]
    if choice.rows[0].seconds is not None and choice.device is not None and choice.server is not None:
        assumed = " (assumed; see --server)" if choice.server_assumed else ""
        notes.append(f"seconds: client {choice.device.name}, server {choice.server.name}{assumed}; an order of size")
    if choice.leakage is not None:
        notes.append("tokens read: by the nearest embedding, from pretrained activations; a split alone is not private")
    return notes


def _number(value: float) -> str:
    """Three digits, and no exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
