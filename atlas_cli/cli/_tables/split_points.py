"""The table of ``atlas split-point``: one row per split layer."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

from atlas_cli.planning.cuts.choice import SplitChoice
from atlas_cli.planning.cuts.table import Cut, Setting
from atlas_cli.planning.devices.clock_notes import link_notes
from atlas_cli.planning.published_dtype import dtype_note
from atlas_cli.reports.fitted import Column, fitted_table
from atlas_cli.units import MB, MIB

GIB = 2**30
PARTS = ("weights", "trained", "saved", "other")
SPARE = {"params": 3, "server": 2, "client": 2, "link": 1}


def split_table(choice: SplitChoice, width: int = 100) -> Table:
    """Parameters, memory, work and bytes of a step; with a device seconds, and which layers fit.

    Args:
        width: of the terminal; where it is narrow the parts of the memory are left out, then work and seconds.
    """
    rows = [_cells(choice, row) for row in choice.rows]
    columns = [
        Column(heading, [texts[heading] for texts in rows], right=True, spare=_spare(heading)) for heading in rows[0]
    ]
    chosen = next((i for i, row in enumerate(choice.rows) if row.layer == choice.layer), None)
    return fitted_table(columns, width, _title(choice), bold=chosen)


def split_notes(choice: SplitChoice) -> list[str]:
    """The meaning of the columns, one line each."""
    unit = "GiB (1,073,741,824 bytes)" if _memory_unit(choice) == "GiB" else "MiB (1,048,576 bytes)"
    notes = [
        f"params: frozen; memory in {unit}; trained: adapters, gradients, AdamW;",
        "saved: activations for the backward and at the cut; other: temporary tensors",
        "work and bytes (MB: 1,000,000) are of one step, forward and backward",
        dtype_note(choice.setting.dtype, choice.published_dtype),
    ]
    notes += _notes_on_client(choice.setting)
    if choice.rows[0].seconds is not None and choice.device is not None and choice.server is not None:
        assumed = " (assumed; see --server)" if choice.server_assumed else ""
        notes.append(f"seconds: {choice.device.name} with server {choice.server.name}{assumed}; an order of size")
        notes += link_notes([choice.device], choice.server)
    if choice.leakage is not None:
        notes += [f"leakage: {choice.leakage.attack} ({choice.leakage.source})", "a split alone is not private"]
    return notes


def _notes_on_client(setting: Setting) -> list[str]:
    notes = []
    if setting.quantization != "none":
        notes += [
            f"{setting.quantization}: the linear layers of the client's blocks; work and seconds leave out",
            "what it takes to dequantise them (5 to 20 % more time where it was measured, on a CPU)",
        ]
    if setting.learns == "frozen":
        notes.append("frozen: a step whose texts are new to the server; later ones cost the client nothing")
    if setting.learns == "auxiliary":
        notes.append("auxiliary: with a norm, head and loss of its own (of a decoder language modelling, of an encoder")
        notes.append("two classes); nothing comes down")
    if setting.learns == "zeroth-order":
        notes.append(f"zeroth-order: a forward, and {setting.probes} more in place of the backward")
    if setting.codec != "none":
        notes.append(f"{setting.codec}: of activations and gradients; work has what it takes to encode and decode them")
    if setting.kept:
        notes.append("saved: with what the codec keeps of all texts of the client, as after an epoch")
    if setting.embedding == "rows":
        notes += [
            f"token embedding: {setting.rows:,} rows, taken for the distinct tokens of a client's texts;",
            "200,000 tokens of English had 12,650 to 17,083; see --rows; params has the whole table",
        ]
    return notes


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
        "published_dtype": choice.published_dtype,
        "device": choice.device.record() if choice.device else None,
        "server": {**choice.server.record(), "assumed": choice.server_assumed} if choice.server else None,
        "leakage": {"attack": choice.leakage.attack, "source": choice.leakage.source} if choice.leakage else None,
        "max_leakage": choice.max_leakage,
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
        "leakage": choice.leakage.layers.get(row.layer) if choice.leakage else None,
        "fits": not choice.limits_broken(row) if _limited(choice) else None,
        "against": list(choice.limits_broken(row)),
    }


def _cells(choice: SplitChoice, row: Cut) -> dict[str, str]:
    """Texts of a row by heading."""
    memory, unit = row.memory, _memory_unit(choice)
    work_unit, work = ("TFLOP", 1e12) if choice.rows[-1].work.total >= 1e13 else ("GFLOP", 1e9)
    sizes = {
        "weights": memory.frozen_weights + memory.heads,
        "trained": memory.adapters + memory.gradients + memory.optimizer,
        "saved": memory.saved_activations + memory.cut_buffers,
        "other": memory.transient,
        f"peak,\n{unit}": memory.peak,
    }
    divisor = GIB if unit == "GiB" else MIB
    cells = {
        "layer": f"{'> ' if row.layer == choice.layer else ''}{row.layer}",
        "params,\nM": _number(row.parameters / 1e6),
        **{heading: _number(size / divisor) for heading, size in sizes.items()},
        f"client\n{work_unit}": _number(row.work.total / work),
        f"server\n{work_unit}": _number(row.server_work.total / work),
        "up+down\nMB": _number((row.bytes.up + row.bytes.down) / MB),
    }
    if row.seconds is not None:
        cells["client\ns"] = _number(row.seconds.compute)
        cells["link\ns"] = _number(row.seconds.upload + row.seconds.download)
        cells["step\ns"] = _number(row.seconds.total)
    if choice.leakage is not None:
        share = choice.leakage.layers.get(row.layer)
        cells["leakage"] = "-" if share is None else f"{100 * share:.3g}%"
    if _limited(choice):
        against = choice.limits_broken(row)
        cells["fits"] = "yes" if not against else "leaks" if against == ("leakage",) else "no"
    return cells


def _spare(heading: str) -> int:
    """What a narrow terminal shows no more, the highest first; what a cut is chosen by is always there."""
    return 4 if heading in PARTS else next((n for start, n in SPARE.items() if heading.startswith(start)), 0)


def _memory_unit(choice: SplitChoice) -> str:
    return "GiB" if choice.rows[-1].memory.peak >= 100 * GIB else "MiB"


def _limited(choice: SplitChoice) -> bool:
    return choice.device is not None or choice.max_leakage is not None


def _title(choice: SplitChoice) -> str:
    s = choice.setting
    held = [
        s.dtype,
        *([s.quantization] if s.quantization != "none" else []),
        *(["embeddings by the row"] if s.embedding == "rows" else []),
        *(["checkpointing"] if s.checkpointing else []),
        *([s.learns] if s.learns != "backprop" else []),
        *([s.codec] if s.codec != "none" else []),
    ]
    rank = "" if s.learns == "frozen" else f", rank {s.rank}"
    return f"{choice.model}: a step of {s.batch} x {s.tokens} tokens{rank}, {', '.join(held)}"


def _number(value: float) -> str:
    """Three digits, and no exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
