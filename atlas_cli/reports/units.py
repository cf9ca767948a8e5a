"""Figures as text. MB is 1,000,000 bytes (what crosses a network); MiB is 1,048,576 bytes (what memory holds)."""

from __future__ import annotations

MB = 1_000_000
MIB = 2**20


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
    """``48 s``, ``3 min 05 s`` or ``2 h 07 min``."""
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
