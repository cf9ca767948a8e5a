"""Notes on what the virtual clock and link times assume if figures of a device are not known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from atlas_cli.config.schema.experiment import ClientSpec, ExperimentConfig
from atlas_cli.planning.devices.devices import Device, devices_by_key, server_device
from atlas_cli.units import format_rate


def clock_notes(config: ExperimentConfig) -> list[str]:
    """Notes on a run's virtual clock: rounds without a time and the reason, and the basis of the other times.

    Empty where no client has a device, as nobody asks for a time then.
    """
    devices = devices_by_key(config)
    if config.mode != "split-federated" or not devices:
        return []
    server, notes = server_device(config), []
    if config.server.device is None:
        notes.append(f"the server is taken to be a {server.name} (assumed; server.device names another)")
    if server.lacks("compute"):
        return [*_said(notes), f"virtual clock: no round has a time: the server's device {server.name} has no compute"]
    untimed: dict[str, list[ClientSpec]] = {}
    for kind in config.client_kinds():
        device = devices.get(kind.key)
        if device is None:
            untimed.setdefault("no device", []).append(kind)
        elif lacking := device.lacks("compute", "uplink", "downlink"):
            untimed.setdefault(f"its device {device.name} has no {' and no '.join(lacking)}", []).append(kind)
    for why, kinds in untimed.items():
        others = sum(config.entry_of(kind.key).count for kind in kinds) - 1
        more = f" or one of {others} more" if others else ""
        notes.append(f"a round with client {kinds[0].name}{more} has no time: {why}")
    return [*_said(notes), *_said(link_notes({d.name: d for d in devices.values()}.values(), server))]


def link_notes(devices: Iterable[Device], server: Device | None) -> list[str]:
    """Notes on the figures that ``upload_seconds`` and ``download_seconds`` assume."""
    devices = list(devices)
    notes = [f"{device.name} has no latency, which counts as 0" for device in devices if device.latency is None]
    notes += [note for device in devices for note in trace_notes(device)]
    if server is None:
        return notes
    if server.latency is None:
        notes.append(f"the server {server.name} has no latency, which counts as 0")
    if lacking := server.lacks("uplink", "downlink"):
        notes.append(
            f"the server {server.name} has no {' and no '.join(lacking)}: as fast there as any client (no limit)"
        )
    return notes


def trace_notes(device: Device) -> Iterator[str]:
    """What of a device depends on the virtual time, and what is planned with."""
    if (traces := device.traces) is None:
        return
    if traces.links:
        means = " and ".join(f"{name} {format_rate(float(f'{getattr(device, name):.3g}'))}" for name in traces.links)
        yield f"{device.name}: rounds of a run go by its trace; what is planned takes its mean, {means}"
    if traces.available is not None:
        yield f"{device.name}: rounds of a run go by when it can be reached; in plans it always can"


def _said(notes: Iterable[str]) -> list[str]:
    return [f"virtual clock: {note}" for note in notes]
