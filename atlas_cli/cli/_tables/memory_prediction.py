"""Predicted memory as tables and rows of CSV: of a config, beside measurements of it or of a run."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from atlas_cli.config.client_names import MOST_NAMED
from atlas_cli.planning.prediction import Prediction
from atlas_cli.printable import listed
from atlas_cli.reports.fitted import layout
from atlas_cli.reports.memory import MAX_TABLE_CLIENTS, PARTS, REFERENCES, Holder, cells, client_rows, holder, sources
from atlas_cli.reports.summary import Record
from atlas_cli.units import format_bytes_mb

ALL_PARTS = {**PARTS, "transient": "transient"}
# nine columns of figures and a name fit 80 characters
_HEADINGS = {
    "frozen_weights": "frozen\nweights",
    "adapters": "adap-\nters",
    "gradients": "gradi-\nents",
    "optimizer": "opti-\nmizer",
    "saved_activations": "saved\nacti-\nvations",
    "cut_buffers": "cut\nbuffers",
    "transient": "tran-\nsient",
    "resident": "resi-\ndent",
}
HOW = "predicted; saved activations by a trace of the modules without data"


def predicted_rows(predicted: Record, max_clients: int = MAX_TABLE_CLIENTS) -> list[Holder]:
    """Clients, server and references with all parts; ``total`` is the peak.

    Clients that are alike are one row, under the name of the first. Of more than ``max_clients`` such rows those whose
    names differ in their number alone are one.
    """
    clients = {name: {**parts, "total": parts["peak"]} for name, parts in predicted["clients"].items()}
    alike: dict[tuple[object, ...], list[str]] = {}
    for name, parts in clients.items():
        alike.setdefault((parts["alike"], *(parts[key] for key in (*ALL_PARTS, "total"))), []).append(name)
    if len(alike) <= max_clients:
        rows = [_of_alike(names, clients) for names in alike.values()]
    else:
        rows = client_rows(clients, max_clients, HOW, ALL_PARTS)
    others = {"server": predicted["server"], **{REFERENCES[k]: p for k, p in predicted["references"].items()}}
    for label, parts in others.items():
        if parts is not None:
            rows.append(holder(label, {**parts, "total": parts["peak"]}, HOW, 0, ALL_PARTS))
    return rows


def _of_alike(names: Sequence[str], clients: Mapping[str, Record]) -> Holder:
    many = sum(clients[name].get("count", 1) for name in names)
    label = names[0] if many == 1 else f"{names[0]} ({many:,} alike)"
    return holder(label, clients[names[0]], HOW, many, ALL_PARTS)


def predicted_table(predicted: Record, notes: Sequence[str]) -> Table:
    """The predicted memory of each holder, in MiB; ``notes`` say for which batches."""
    rows = predicted_rows(predicted)
    table = _table("Memory while training, predicted, in MiB (1 MiB = 1,048,576 bytes)", [*ALL_PARTS, "peak"])
    table.caption = "\n".join([*sources(rows), *notes])
    for i, row in enumerate(rows):
        ends = row.label == "server" or (row.clients > 0 and not rows[min(i + 1, len(rows) - 1)].clients)
        table.add_row(row.label, *cells(row), end_section=ends)
    return table


def folded_note(prediction: Prediction) -> list[str]:
    """Which clients a report has as one, where it has those of a kind so."""
    if not prediction.folded:
        return []
    folded = [f"{len(kind.names):,} clients like {kind.names[0]}" for kind in prediction.kinds if len(kind.names) > 1]
    return [f"shown as one, since there are more than {MOST_NAMED:,} clients: {listed(folded)}"]


def round_table(predicted: Record) -> Table:
    """Bytes of a round in MB, one row per kind of client; of frozen ones a row while texts are new, and one later."""
    table = Table(
        title="On the wire, each round, in MB (1 MB = 1,000,000 bytes)",
        caption="of one client that takes part, as serialised;\nwithout the frozen weights that it gets once\n"
        "all clients: of a round in which each takes part",
        **layout(),
    )
    table.add_column("client", overflow="fold", min_width=28)
    for heading in ("alike", "up, MB", "down, MB"):
        table.add_column(heading, justify="right", min_width=9)
    kinds: dict[tuple[object, ...], list[str]] = {}
    clients = predicted["clients"]
    for name, sent in predicted["round"].items():
        own = clients[name]["alike"] if "later_bytes_up" in sent else sent["bytes_up"]
        kinds.setdefault((own, sent["bytes_down"]), []).append(name)
    for names in kinds.values():
        most = max(names, key=lambda name: predicted["round"][name]["bytes_up"])
        many = sum(clients[name].get("count", 1) for name in names)
        sent = predicted["round"][most]
        figures = {", first" if "later_bytes_up" in sent else "": (sent["bytes_up"], sent["bytes_down"])}
        if sent.get("later_bytes_up") is not None:
            figures[", later"] = sent["later_bytes_up"], 0
        for when, both in figures.items():
            table.add_row(f"{most}{when}", f"{many:,}", *map(_mb, both))
    of_all = predicted["round_of_all"]
    table.add_section()
    later = of_all.get("later_bytes_up")
    ups = {"": of_all["bytes_up"]} if later is None else {", first": of_all["bytes_up"], ", later": later}
    for when, up in ups.items():
        table.add_row(f"all clients{when}", f"{of_all['clients']:,}", _mb(up), _mb(of_all["bytes_down"]))
    return table


def _mb(size: int) -> str:
    return format_bytes_mb(size).removesuffix(" MB")


def errors_of(measured: Mapping[str, Any], predicted: Mapping[str, Any], columns: Sequence[str]) -> dict[str, float]:
    """Errors of one holder's parts in percent of the measurement; parts without a measurement have none."""
    return {
        key: 100 * (predicted[key] - measured[key]) / measured[key]
        for key in columns
        if measured.get(key) and predicted.get(key) is not None
    }


def run_comparison(memory: Record, predicted: Record) -> dict[str, dict[str, Any]]:
    """Holders of a run: measured, predicted, and error in percent of each part and of the total without transient."""
    pairs = {name: (parts, predicted["clients"][name]) for name, parts in memory["clients"].items()}
    if memory["server"] and predicted["server"]:
        pairs["server"] = memory["server"], predicted["server"]
    for key in REFERENCES:
        said = dict(predicted["references"][key])
        said["frozen_weights"] += said["heads"]  # a run's record has them as one
        found = {**memory["references"][key]}
        found["frozen_weights"] = found.pop("weights")
        pairs[REFERENCES[key]] = found, {**said, "heads": 0}
    both = {}
    for name, (found, said) in pairs.items():
        kept = {key: said[key] for key in PARTS if key in found}
        kept["total"] = sum(kept.values())
        both[name] = {
            "measured": found,
            "predicted": kept,
            "error_percent": errors_of(found, kept, [*PARTS, "total"]),
        }
    return both


def measured_comparison(predicted: Record, measured: Mapping[str, Record]) -> dict[str, dict[str, Any]]:
    """The same for clients that were measured alone, with the peak of tensors and the resident peak of the process."""
    both = {}
    for name, found in measured.items():
        said = {key: predicted["clients"][name][key] for key in [*PARTS, "peak"]}
        said["resident"] = said["peak"]
        errors = errors_of(found, said, [*PARTS, "peak", "resident"])
        both[name] = {"measured": found, "predicted": said, "error_percent": errors}
    return both


def one_a_kind(both: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Holders for a table: if there are many, the first of those with equal figures stands for all."""
    if len(both) <= MAX_TABLE_CLIENTS:
        return dict(both)
    kinds: dict[tuple[Any, ...], list[str]] = {}
    for name, figures in both.items():
        kinds.setdefault(tuple(figures["measured"].get(key) for key in [*PARTS, "total"]), []).append(name)
    return {f"{n[0]} ({len(n)} alike)" if len(n) > 1 else n[0]: both[n[0]] for n in kinds.values()}


def comparison_table(both: Mapping[str, Mapping[str, Any]], totals: Sequence[str], title: str, caption: str) -> Table:
    """Three lines a holder: predicted and measured in MiB, and the error in percent."""
    columns = [*PARTS, *totals]
    table = _table(title, columns)
    table.caption = caption
    for name, figures in both.items():
        table.add_row(name)
        for source in ("predicted", "measured"):
            parts = {key: figures[source].get(key) for key in columns[:-1]}
            table.add_row(f"  {source}", *cells(Holder(name, parts, figures[source][columns[-1]], "")))
        errors = figures["error_percent"]
        table.add_row("  error, %", *(_percent(errors.get(key)) for key in columns), end_section=True)
    return table


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV with a header; figures in bytes."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def predicted_csv(predicted: Record) -> list[dict[str, Any]]:
    """A row a holder, and one of a round of all clients, without memory.

    In ``clients`` is how many a row stands for, more than one where those of a kind are shown as one.
    """
    holders = {**predicted["clients"], "server": predicted["server"], **predicted["references"]}
    rows = [
        (name, parts, predicted["round"].get(name, {}), parts.get("count", 1) if name in predicted["clients"] else None)
        for name, parts in holders.items()
        if parts is not None
    ]
    if (of_all := predicted["round_of_all"]) is not None:
        rows.append(("all clients", {}, of_all, of_all["clients"]))
    return [
        {
            "holder": name,
            **{f"{key}_bytes": parts.get(key) for key in [*ALL_PARTS, "peak"]},
            "round_up_bytes": sent.get("bytes_up"),
            "round_down_bytes": sent.get("bytes_down"),
            "later_round_up_bytes": sent.get("later_bytes_up"),
            "clients": many,
        }
        for name, parts, sent, many in rows
    ]


def comparison_csv(both: Mapping[str, Mapping[str, Any]], totals: Sequence[str]) -> list[dict[str, Any]]:
    """Three rows a holder: predicted and measured in bytes, and the error in percent."""
    return [
        {"holder": name, "figure": figure, **{key: parts.get(key) for key in [*PARTS, *totals]}}
        for name, figures in both.items()
        for figure, parts in (
            ("predicted, bytes", figures["predicted"]),
            ("measured, bytes", figures["measured"]),
            ("error, percent", figures["error_percent"]),
        )
    ]


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, **layout())
    table.add_column("", overflow="fold", min_width=12)
    for key in columns:
        table.add_column(_HEADINGS.get(key, key), justify="right", no_wrap=True, min_width=6)
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else "0" if value == 0 else f"{value:+.2f}"
