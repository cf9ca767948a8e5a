"""Quantities with units, as configs and options say them: ``2 GiB``, ``20 GFLOP/s``, ``10 Mbit/s``, ``40 ms``, ``5 W``.

A quantity without a unit is refused, because nobody can tell what ``memory: 2`` means. The formatting functions are the
inverses: what they write is read back as the same number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

MB = 1_000_000
MIB = 2**20
_SI = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class _Kind:
    """A kind of quantity: its units by name, those to list in a message, and what to say to units of other kinds."""

    what: str
    example: str
    listed: str
    units: Mapping[str, float]
    confused: Mapping[str, str]


_BYTES = _Kind(
    "a size in memory",
    "2 GiB",
    "B, KiB, MiB, GiB, TiB, kB, MB, GB, TB",
    {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
    | {f"{p}B": factor for p, factor in _SI.items() if p},
    {p: f"{p.upper()}iB (1024-based) or {p}B (1000-based)" for p in ("k", "K", "M", "G", "T")}
    | {f"{p}b": f"{p}B (bytes); memory is not counted in bits" for p in ("k", "M", "G", "T")},
)
_COMPUTE = _Kind(
    "a rate of computing",
    "20 GFLOP/s",
    "FLOP/s, kFLOP/s, MFLOP/s, GFLOP/s, TFLOP/s",
    {f"{p}{name}": factor for p, factor in _SI.items() for name in ("FLOP/s", "FLOPS")},
    {f"{p}FLOP": f"{p}FLOP/s, a rate" for p in _SI},
)
_RATE = _Kind(
    "the rate of a link",
    "10 Mbit/s",
    "bit/s, kbit/s, Mbit/s, Gbit/s, kB/s, MB/s, GB/s",
    {f"{p}{name}": factor for p, factor in _SI.items() for name in ("bit/s", "bps")}
    | {f"{p}B/s": 8 * factor for p, factor in _SI.items()},
    {f"{p}b/s": f"{p}bit/s (bits) or {p}B/s (bytes)" for p in _SI}
    | {f"{p}bit": f"{p}bit/s, a rate" for p in _SI}
    | {f"{p}B": f"{p}bit/s (bits) or {p}B/s (bytes)" for p in _SI},
)
_TIME = _Kind(
    "a time",
    "40 ms",
    "s, ms, us, min, h",
    {"s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "min": 60, "h": 3600},
    {"m": "ms or min", "sec": "s", "hours": "h"},
)
_POWER = _Kind(
    "a power", "5 W", "W, mW, kW", {"mW": 1e-3, "W": 1, "kW": 1e3}, {"Wh": "W, not energy", "J": "W, not energy"}
)

_ENERGY = _Kind(
    "an energy",
    "5 kJ",
    "J, mJ, kJ, MJ, Wh, kWh",
    {"mJ": 1e-3, "J": 1, "kJ": 1e3, "MJ": 1e6, "Wh": 3600, "kWh": 3.6e6},
    {"W": "J or Wh, not power", "kW": "kJ or kWh, not power"},
)


def parse_bytes(text: object) -> int:
    """``2 GiB`` (1024-based) or ``2 GB`` (1000-based) in bytes.

    Raises:
        ValueError: no unit, one that is not of sizes, nothing or less than nothing, or no whole byte.
    """
    size = _parse(text, _BYTES)
    if size < 1:
        raise ValueError(f"{str(text)!r} is less than a byte; write e.g. {_BYTES.example}")
    return round(size)


def parse_compute(text: object) -> float:
    """``20 GFLOP/s`` (or ``20 GFLOPS``) in FLOP/s; a multiplication and an addition are two.

    Raises:
        ValueError: no unit, another unit, or not above zero.
    """
    return _parse(text, _COMPUTE)


def parse_rate(text: object) -> float:
    """``10 Mbit/s``, ``10 Mbps`` or ``1.25 MB/s`` in bit/s.

    Raises:
        ValueError: no unit, another unit, or not above zero.
    """
    return _parse(text, _RATE)


def parse_time(text: object) -> float:
    """``40 ms`` in seconds.

    Raises:
        ValueError: no unit, another unit, or not above zero.
    """
    return _parse(text, _TIME)


def parse_power(text: object) -> float:
    """``5 W`` in watts.

    Raises:
        ValueError: no unit, another unit, or not above zero.
    """
    return _parse(text, _POWER)


def parse_energy(text: object) -> float:
    """``5 kJ`` in joules.

    Raises:
        ValueError: no unit, another unit, or not above zero.
    """
    return _parse(text, _ENERGY)


def format_bytes(value: int) -> str:
    """``2 GiB``: the largest 1024-based unit that keeps the number exact."""
    unit = next(u for u in ("TiB", "GiB", "MiB", "KiB", "B") if value % _BYTES.units[u] == 0)
    return f"{int(value / _BYTES.units[unit])} {unit}"


def format_compute(value: float) -> str:
    """``20 GFLOP/s``."""
    return _format(value, {f"{p}FLOP/s": factor for p, factor in _SI.items()})


def format_rate(value: float) -> str:
    """``10 Mbit/s``."""
    return _format(value, {f"{p}bit/s": factor for p, factor in _SI.items()})


def format_time(value: float) -> str:
    """``40 ms``."""
    return _format(value, {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1})


def format_power(value: float) -> str:
    """``5 W``."""
    return _format(value, _POWER.units)


def _parse(text: object, kind: _Kind) -> float:
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise ValueError(f"{text!r} is not {kind.what}; write e.g. {kind.example}")
    if len(str(text)) > 100:
        raise ValueError(f"{str(text)[:40]!r}... is not {kind.what}; write e.g. {kind.example}")
    match = re.fullmatch(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S*)\s*", str(text))
    if match is None:
        raise ValueError(f"{text!r} is not {kind.what}; write a number and a unit, e.g. {kind.example}")
    number, unit = float(match[1]), match[2]
    if not number > 0:
        raise ValueError(f"{str(text)!r} must be above zero; write e.g. {kind.example}")
    if not unit:
        raise ValueError(f"{str(text)!r} has no unit; write e.g. {match[1]} {kind.example.split()[1]} ({kind.listed})")
    if unit not in kind.units:
        raise ValueError(f"{unit!r} in {text!r} is not a unit of {kind.what}{_suggestion(unit, kind)}")
    value = number * kind.units[unit]
    if not 0 < value < math.inf:
        raise ValueError(f"{text!r} is out of range; write e.g. {kind.example}")
    return value


def _suggestion(unit: str, kind: _Kind) -> str:
    if unit in kind.confused:
        return f"; write {kind.confused[unit]}"
    alike = [u for u in kind.units if u.lower() == unit.lower()]
    return f"; did you mean {' or '.join(alike)}?" if alike else f"; use one of: {kind.listed}"


def _format(value: float, units: Mapping[str, float]) -> str:
    """In the unit that leaves the number at 1 or more, with as many digits as it takes to read it back."""
    ordered = sorted(units.items(), key=lambda item: item[1])
    unit, factor = next((u for u in reversed(ordered) if value >= u[1]), ordered[0])
    for digits in range(1, 18):
        number = f"{value / factor:.{digits}g}"
        if float(number) * factor == value:
            break
    else:
        unit, factor, number = *next(u for u in ordered if u[1] == 1), repr(value)
    return f"{_without_exponent(number)} {unit}"


def _without_exponent(number: str) -> str:
    return f"{float(number):.0f}" if "e+" in number else number


def format_bytes_mb(n: int) -> str:
    """Bytes in decimal megabytes, e.g. ``1.20 MB``; three digits or the thousandth."""
    return f"{_three_digits(n / MB)} MB"


def format_bytes_mib(n: int) -> str:
    """Bytes in binary mebibytes, e.g. ``1.14 MiB``; three digits or the thousandth."""
    return f"{_three_digits(n / MIB)} MiB"


def format_number(value: float | None) -> str:
    """A loss or metric: three decimals, none from 1,000 up, ``n/a`` for None."""
    if value is None:
        return "n/a"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def format_seconds(seconds: float) -> str:
    """``0.248 s``, ``48 s``, ``3 min 05 s`` or ``2 h 07 min``; three digits below ten seconds."""
    if seconds < 10:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _three_digits(value: float) -> str:
    if 0 < value < 0.001:
        return "<0.001"
    if value == 0:
        return "0"
    decimals = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{decimals}f}"
