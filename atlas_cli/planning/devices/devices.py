"""Devices: what a party computes on, how it is connected, and profiles of common kinds.

A built-in profile is an order of size of its class of device, chosen on the slow side of what public specifications
say: a fifth to a half of the peak that cores, vector width and clock allow, and links as a home or mobile contract has
them. Measure a device of your own with ``atlas devices --this-machine``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from atlas_cli.errors import ConfigError
from atlas_cli.planning.devices.trace_files import AVAILABLE, read_trace
from atlas_cli.planning.devices.traces import Trace
from atlas_cli.suggest import did_you_mean
from atlas_cli.units import (
    format_bytes,
    format_compute,
    format_power,
    format_rate,
    format_time,
    parse_bytes,
    parse_compute,
    parse_power,
    parse_rate,
    parse_time,
)

if TYPE_CHECKING:
    from atlas_cli.config.schema.experiment import ExperimentConfig

_PARSERS: dict[str, Callable[[object], float]] = {
    "memory": parse_bytes,
    "compute": parse_compute,
    "uplink": parse_rate,
    "downlink": parse_rate,
    "latency": parse_time,
    "watts": parse_power,
}
_FORMATTERS: dict[str, Callable[[Any], str]] = {
    "memory": format_bytes,
    "compute": format_compute,
    "uplink": format_rate,
    "downlink": format_rate,
    "latency": format_time,
    "watts": format_power,
}
TRACED = ("uplink", "downlink", AVAILABLE)  # what may be a trace


@dataclass(frozen=True)
class Traces:
    """What of a device depends on the virtual time.

    Attributes:
        uplink, downlink: the rates of its links, 0 while it cannot be reached; None: as ``Device`` has them.
        available: when it can be reached, as 1 and 0; None: always.
        links: those of which the config has a trace.
    """

    uplink: Trace | None
    downlink: Trace | None
    available: Trace | None
    links: tuple[str, ...]


@dataclass(frozen=True)
class Device:
    """A device and its link; figures that are not known are None.

    Attributes:
        memory: bytes that training may use, which are fewer than installed.
        compute: sustained FLOP/s in float32; a multiplication and an addition are two.
        uplink, downlink: bit/s from and to the device; of a trace, its mean.
        latency: one-way seconds that a message takes besides its transfer.
        watts: its power while it computes or transfers.
        source: the origin of the figures.
        traces: what of it depends on the virtual time; None: nothing.
    """

    name: str
    memory: int | None = None
    compute: float | None = None
    uplink: float | None = None
    downlink: float | None = None
    latency: float | None = None
    watts: float | None = None
    source: str = ""
    traces: Traces | None = None

    def lacks(self, *figures: str) -> list[str]:
        """The named figures that are not known."""
        return [figure for figure in figures if getattr(self, figure) is None]

    def texts(self) -> dict[str, str]:
        """The known figures with units, as in a config under ``devices.<name>``."""
        known = {figure: getattr(self, figure) for figure in _FORMATTERS}
        texts = {figure: _FORMATTERS[figure](value) for figure, value in known.items() if value is not None}
        links = () if self.traces is None else self.traces.links
        return texts | {figure: f"{texts[figure]} (mean of a trace)" for figure in links}

    def record(self) -> dict[str, Any]:
        """Its figures, as JSON."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "traces"}


def device_of(name: str, texts: Mapping[str, object], source: str = "config", key: str = "devices") -> Device:
    """Build a device from texts such as ``{"memory": "2 GiB", "uplink": "10 Mbit/s"}``; None stands for not known.

    In place of a rate, and for ``available``, there may be what names a trace.

    Raises:
        ConfigError: not a figure of a device, or a quantity without unit, not above zero, or of another kind; or a
        trace that cannot be one.
        ResourceError: the file of a trace is not there.
    """
    figures: dict[str, Any] = {}
    traces: dict[str, Trace] = {}
    for figure, text in texts.items():
        if isinstance(text, Mapping) and figure in TRACED:
            traces[figure] = read_trace(text, figure, f"{key}.{name}.{figure}")
            continue
        if figure == AVAILABLE and text is None:
            continue
        if figure not in _PARSERS:
            raise ConfigError(f"a device has no {figure!r}{did_you_mean(figure, _PARSERS)}", key=f"{key}.{name}")
        try:
            figures[figure] = None if text is None else _PARSERS[figure](text)
        except ValueError as error:
            raise ConfigError(str(error), key=f"{key}.{name}.{figure}") from None
    figures |= {figure: trace.mean for figure, trace in traces.items() if figure != AVAILABLE}
    return Device(name, **figures, source=source, traces=_traces(figures, traces, f"{key}.{name}"))


def _traces(figures: Mapping[str, float | None], given: Mapping[str, Trace], key: str) -> Traces | None:
    """What of a device depends on time: links are 0 while it cannot be reached."""
    if not given:
        return None
    available, found = given.get(AVAILABLE), dict[str, Trace | None]()
    for figure in ("uplink", "downlink"):
        found[figure] = link = given.get(figure)
        if available is not None and (rate := figures.get(figure)) is not None:
            try:
                found[figure] = (link or Trace.of([0.0], [rate])).product(available)
            except ValueError as error:
                raise ConfigError(f"with {AVAILABLE}: {error}", key=f"{key}.{figure}") from None
    return Traces(**found, available=available, links=tuple(name for name in given if name != AVAILABLE))


def _built_in(
    name: str, memory: str, compute: str, up: str, down: str, latency: str, watts: str, source: str
) -> Device:
    texts = {"memory": memory, "compute": compute, "uplink": up, "downlink": down, "latency": latency, "watts": watts}
    return device_of(name, texts, f"{source}; order of size")


BUILT_IN: dict[str, Device] = {
    device.name: device
    for device in (
        _built_in(
            *("phone-2gib", "2 GiB", "20 GFLOP/s", "10 Mbit/s", "50 Mbit/s", "40 ms", "3 W"),
            "entry phone: 8 in-order Arm cores (Cortex-A55 class, 115 GFLOP/s peak), LTE in use",
        ),
        _built_in(
            *("phone-6gib", "6 GiB", "50 GFLOP/s", "20 Mbit/s", "100 Mbit/s", "30 ms", "5 W"),
            "phone: 2 large and 6 small Arm cores (Cortex-A76 and A55 class, 170 GFLOP/s peak), LTE or Wi-Fi",
        ),
        _built_in(
            *("single-board-4gib", "4 GiB", "15 GFLOP/s", "20 Mbit/s", "100 Mbit/s", "20 ms", "7 W"),
            "single-board computer: 4 Arm cores (Cortex-A72 class, 48 GFLOP/s peak), home broadband",
        ),
        _built_in(
            *("laptop-8gib", "8 GiB", "150 GFLOP/s", "50 Mbit/s", "200 Mbit/s", "15 ms", "28 W"),
            "thin laptop: 4 x86 cores with AVX2 (320 GFLOP/s peak at 2.5 GHz), home fibre",
        ),
        _built_in(
            *("workstation-gpu-16gib", "16 GiB", "8 TFLOP/s", "500 Mbit/s", "500 Mbit/s", "5 ms", "200 W"),
            "graphics card with 16 GiB (16 to 20 TFLOP/s peak in float32 without tensor cores), campus network",
        ),
    )
}
DEFAULT_SERVER = BUILT_IN["workstation-gpu-16gib"]


def find_device(
    name: str, configured: Mapping[str, Device] | None = None, *, key: str | None = None, where: str | None = None
) -> Device:
    """Find a device in the config, else among the built-in profiles; ``key`` and ``where`` are for errors.

    Raises:
        ConfigError: there is no device of that name.
    """
    known = {**BUILT_IN, **(configured or {})}
    if name not in known:
        hint = f"{did_you_mean(name, known)} (atlas devices lists the built-in ones)"
        raise ConfigError(f"no device is named {name!r}{hint}", key=key, where=where)
    return known[name]


def client_devices(config: ExperimentConfig) -> dict[str, Device]:
    """The device of every client that names one.

    Raises:
        ConfigError: a device that is neither configured nor built in.
    """
    devices = devices_by_key(config)
    return (
        {spec.name: devices[spec.key] for spec in config.expanded_clients() if spec.key in devices} if devices else {}
    )


def devices_by_key(config: ExperimentConfig) -> dict[str, Device]:
    """The device of every entry of ``clients`` that names one, by its place in the config.

    Raises:
        ConfigError: as ``client_devices``.
    """
    configured = configured_devices(config)
    return {
        kind.key: find_device(kind.device, configured, key=f"{kind.key}.device")
        for kind in config.client_kinds()
        if kind.device is not None
    }


def devices_of_kinds(config: ExperimentConfig) -> dict[str, Device]:
    """As ``client_devices``, of the first client of each entry."""
    devices = devices_by_key(config)
    return {kind.name: devices[kind.key] for kind in config.client_kinds() if kind.key in devices}


def server_device(config: ExperimentConfig) -> Device:
    """The server's device; a workstation with a GPU if the config names none."""
    if config.server.device is None:
        return DEFAULT_SERVER
    return find_device(config.server.device, configured_devices(config), key="server.device")


def check_times(config: ExperimentConfig) -> None:
    """Check that every device has the figures that ``training.deadline``, ``training.asynchrony`` or traces need.

    Raises:
        ConfigError: a figure is missing; names the client and the figure. Or the server's device has a trace.
    """
    devices = devices_of_kinds(config)
    if server_device(config).traces is not None:
        raise ConfigError(
            f"{config.server.device} has a trace, and the server's links do not change; name another device, and give"
            " traces to those of clients",
            key="server.device",
        )
    needed = [f"training.{name}" for name in ("deadline", "asynchrony") if getattr(config.training, name) is not None]
    if traced := traced_client(config):
        _check_traced(config, devices, traced)
        needed.append(f"devices.{devices[traced].name}")
    if not needed:
        return
    key = needed[0]
    for client, device in devices.items():
        if lacking := device.lacks("compute", "uplink", "downlink"):
            raise ConfigError(f"the device {device.name} of client {client} has no {' and no '.join(lacking)}", key=key)
    if lacking := server_device(config).lacks("compute"):
        raise ConfigError(f"the server's device has no {lacking[0]}", key=key)


def traced_client(config: ExperimentConfig) -> str | None:
    """The first client whose device depends on the virtual time, which there is with a split alone; None: there is
    none, and rounds need not know when they begin."""
    if config.mode != "split-federated" or not any(each.traces for each in config.devices.values()):
        return None
    return next((client for client, device in devices_of_kinds(config).items() if device.traces is not None), None)


def _check_traced(config: ExperimentConfig, devices: Mapping[str, Device], traced: str) -> None:
    """What traces cannot go with: a client without a time."""
    key = f"devices.{devices[traced].name}"
    for spec in config.client_kinds():
        if spec.name not in devices:
            raise ConfigError(
                f"has a trace, which is read by the virtual time, and a round with client {spec.name} has no time; give"
                " this client a device",
                key=key,
            )


def configured_devices(config: ExperimentConfig) -> dict[str, Device]:
    """The devices in a config's ``devices``, by name.

    Raises:
        ConfigError: a quantity is not possible.
    """
    return {name: device_of(name, device.model_dump()) for name, device in config.devices.items()}


def measure_this_machine(threads: int | None = None, size: int = 1024, repeats: int = 9) -> Device:
    """Measure the compute rate of torch and the free memory of this machine; links and power are not measured.

    The rate is the median of ``repeats`` products of float32 matrices ``size`` x ``size``, after one that is not
    counted.

    Args:
        threads: threads of torch during the measurement; None: its current number.
    """
    import torch  # here, because listing devices needs none of it

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        seconds = [_matrix_product(size) for _ in range(repeats + 1)][1:]
    finally:
        torch.set_num_threads(before)
    rate = 2 * size**3 / statistics.median(seconds)
    source = (
        f"measured: float32 matrix product {size} x {size}, median of {repeats}, torch threads: {threads or before}; "
        "memory: free now"
    )
    return Device("this-machine", memory=_whole_mib(free_memory()), compute=float(f"{rate:.3g}"), source=source)


def bfloat16_slowdown(size: int = 256, repeats: int = 5) -> float:
    """The factor by which a bfloat16 matrix product takes longer on this CPU than one in float32, at its best.

    About 1 or less where the CPU has units for bfloat16; tens where it is emulated.
    """
    seconds = {
        dtype: min(_matrix_product(size, dtype) for _ in range(repeats + 1)) for dtype in ("float32", "bfloat16")
    }
    return seconds["bfloat16"] / seconds["float32"]


def _matrix_product(size: int, dtype: str = "float32") -> float:
    """Seconds of one matrix product."""
    import torch

    left, right = (torch.ones(size, size, dtype=getattr(torch, dtype)) for _ in range(2))
    start = time.perf_counter()
    torch.mm(left, right)
    return time.perf_counter() - start


def free_memory() -> int:
    """Bytes that can be used without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)


def _whole_mib(size: int) -> int:
    """Round down to whole MiB, as the last digits change from call to call."""
    return max(size // 2**20, 1) * 2**20
