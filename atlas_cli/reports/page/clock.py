"""Devices with their limits, and where the time of a round goes on the virtual clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atlas_cli.reports.charts.bars import MAX_BARS, Bar, bar_chart
from atlas_cli.reports.page.elements import Cell, figure, figures, notes, paragraph, table, words
from atlas_cli.reports.page.records import RunRecords
from atlas_cli.units import format_bytes_mib, format_seconds, parse_bytes

PARTS = {"compute": "computing", "upload": "uploads", "server": "server", "download": "downloads", "wait": "waiting"}
LIMITS = ("memory", "compute", "uplink", "downlink", "latency", "watts")


def devices(records: RunRecords) -> str:
    """A row a device with its limits and what clients on it held, and a bar a device with its mean round."""
    clock = records.manifest.get("virtual_clock")
    clients = _clients_by_device(records)
    if not clients:
        return paragraph("No client names a device, so that there is no limit and no virtual clock.")
    known = (clock or {}).get("devices") or records.config.get("devices") or {}
    columns = [words("device"), figures("clients"), figures("memory limit"), figures("most held"), words("fits")]
    columns += [figures(name) for name in LIMITS[1:]]
    rows = [_device_row(records, name, names, known.get(name) or {}) for name, names in clients.items()]
    if clock:
        server = clock["server"]
        role = f"{server['device']} (server{', assumed' if clock['server_assumed'] else ''})"
        rows.append((role, None, server.get("memory"), None, None, *(server.get(limit) for limit in LIMITS[1:])))
    shown = table(columns, rows, "Devices, as the config or a built-in profile has them")
    return shown + _rounds(records, clients) + notes((clock or {}).get("notes", ()))


def _clients_by_device(records: RunRecords) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for client in records.by_client:
        device = (records.entry_of(client) or {}).get("device")
        if device is not None:
            found.setdefault(device, []).append(client)
    return found


def _device_row(records: RunRecords, name: str, clients: Sequence[str], limits: Mapping[str, str]) -> tuple[Cell, ...]:
    measured = (records.memory or {}).get("clients", {})
    held = max((measured[client]["total"] for client in clients if client in measured), default=None)
    limit = limits.get("memory")
    fits = None if limit is None or held is None else "yes" if held <= parse_bytes(limit) else "NO"
    most = None if held is None else format_bytes_mib(held)
    return (name, len(clients), limit, most, fits, *(limits.get(figure) for figure in LIMITS[1:]))


def _rounds(records: RunRecords, clients: Mapping[str, Sequence[str]]) -> str:
    """The mean of a client's rounds by device."""
    device_of = {client: device for device, names in clients.items() for client in names}
    lines: dict[str, list[Mapping[str, float]]] = {}
    for row in records.clients:
        if row["simulated"] and row["client"] in device_of:
            lines.setdefault(device_of[row["client"]], []).append(row["simulated"])
    if not lines:
        return paragraph("No round has a time on the virtual clock.")
    means = {d: {part: sum(row[part] for row in of) / len(of) for part in PARTS} for d, of in lines.items()}
    longest = sorted(means, key=lambda device: -sum(means[device].values()))[:MAX_BARS]
    left = f" Not drawn: {len(means) - len(longest)} devices with shorter rounds." if len(means) > MAX_BARS else ""
    caption = f"A round of a client on the virtual clock, by device: the mean over its clients and rounds.{left}"
    bars = [
        Bar(device, means[device], format_seconds(sum(means[device].values()))) for device in means if device in longest
    ]
    columns = [words("device"), *(figures(f"{name}, s") for name in PARTS.values()), figures("joules")]
    rows = [(d, *means[d].values(), _joules(lines[d])) for d in means]
    picture = bar_chart(bars, PARTS, "seconds", caption)
    return figure(picture, caption, columns, rows, "clients.jsonl") + paragraph(_total(records))


def _joules(rows: Sequence[Mapping[str, float | None]]) -> float | None:
    known = [row["joules"] for row in rows]
    return None if None in known else sum(j for j in known if j is not None) / len(known)


def _total(records: RunRecords) -> str:
    totals = records.simulated
    if totals is None:
        return "Some rounds have no time on the virtual clock."
    energy = "" if totals[1] is None else f" and {totals[1]:,.3g} J of energy on all devices together"
    return f"All rounds together: {format_seconds(totals[0])} on the virtual clock{energy}."
