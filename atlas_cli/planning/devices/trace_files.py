"""Traces of devices, read from CSV files: a line of column names, then rows of a time and of what is so from then on.

    seconds,Mbit/s          seconds,available
    0,12                    0,1
    4.5,0                   28800,0
    6,3.5                   64800,1

The second column of a link is named by the unit of its rates. Times ascend from 0; lines that begin with # are remarks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from atlas_cli.data.formats.text import lines_of, read_text
from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.planning.devices.traces import MOST_PIECES, Trace
from atlas_cli.suggest import near_file
from atlas_cli.units import parse_rate, parse_time

AVAILABLE = "available"


def read_trace(given: Mapping[str, str | None], figure: str, key: str) -> Trace:
    """The trace of a device's ``uplink`` or ``downlink`` in bit/s, or of ``available``, 1 and 0.

    Args:
        given: ``trace``, its file, and ``repeat_every``, a time after which it begins anew; None: the last row holds.
        key: of the figure in the config.

    Raises:
        ConfigError: not such a file; names file, line and column. Or what it says would never end.
        ResourceError: there is no such file.
    """
    name, again = str(given["trace"]), given.get("repeat_every")
    path, key = Path(name).expanduser(), f"{key}.trace"
    try:
        changed = path.stat().st_mtime_ns
        return _read(path, changed, None if again is None else parse_time(again), figure, key)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and path.parent.is_dir():
            near = near_file(path.name, (each.name for each in path.parent.iterdir()))
            hint = f"; did you mean {near}?" if near else "; give a path from the config's folder"
            raise ResourceError(f"{key}: {name}: there is no such file{hint}") from None
        raise ResourceError(f"{key}: {name}: cannot be read: {error.strerror}") from None


@lru_cache(maxsize=256)
def _read(path: Path, changed: int, period: float | None, figure: str, key: str) -> Trace:
    """``changed``: when the file was written, so that a new one is read anew."""
    rows = _rows(path, key)
    line, unit = _header(path, rows, figure, key)
    times: list[float] = []
    rates: list[float] = []
    for line, (when, what) in rows:
        times.append(_number(path, line, "seconds", when, key))
        rates.append(_number(path, line, unit, what, key))
        _check_order(path, line, times, key)
        if figure == AVAILABLE and rates[-1] not in (0, 1):
            raise _wrong(path, line, unit, f"{what!r} is neither 1 (it can be reached) nor 0", key)
        if period is not None and times[-1] >= period:
            raise _wrong(path, line, "seconds", f"{when} is not below repeat_every ({period:g} s); raise it", key)
        if len(times) > MOST_PIECES:
            raise _wrong(path, line, "seconds", f"there are more than {MOST_PIECES:,} rows; thin them out", key)
    if not times:
        raise ConfigError(f"{path}:{line}: there is no row below the column names; add e.g. 0,1", key=key)
    factor = 1.0 if figure == AVAILABLE else parse_rate(f"1 {unit}")
    try:
        return Trace.of(times, [rate * factor for rate in rates], period)
    except ValueError as error:
        remedy = "end with a row above 0, or set repeat_every" if period is None else "give it a row above 0"
        raise _wrong(path, line, unit, f"{error}; {remedy}", key) from None


def _rows(path: Path, key: str) -> Iterator[tuple[int, list[str]]]:
    """The fields of each line, with its number."""
    for number, line in enumerate(lines_of(read_text(path, key)), 1):
        if line.strip() and not line.startswith("#"):
            fields = [field.strip() for field in line.split(",")]
            if len(fields) != 2:
                raise ConfigError(
                    f"{path}:{number}: {len(fields)} fields, and a trace has 2 columns between commas; write e.g. 0,12",
                    key=key,
                )
            yield number, fields


def _header(path: Path, rows: Iterator[tuple[int, list[str]]], figure: str, key: str) -> tuple[int, str]:
    """The line of the column names, and the name of the second."""
    wanted = AVAILABLE if figure == AVAILABLE else "Mbit/s"
    example = f"write seconds,{wanted}" if figure == AVAILABLE else f"write e.g. seconds,{wanted}"
    line, fields = next(rows, (1, None))
    if fields is None:
        raise ConfigError(f"{path}: is empty; {example} and rows below it", key=key)
    first, second = fields
    if first != "seconds":
        raise _wrong(path, line, first, f"the first column is named seconds; {example}", key)
    if figure == AVAILABLE and second != AVAILABLE:
        raise _wrong(path, line, second, f"the second column is named {AVAILABLE}; {example}", key)
    if figure != AVAILABLE:
        try:
            parse_rate(f"1 {second}")
        except ValueError as error:
            raise _wrong(
                path, line, second, f"the second column is named by the unit of its rates: {error}", key
            ) from None
    return line, second


def _number(path: Path, line: int, column: str, text: str, key: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _wrong(path, line, column, f"{text[:40]!r} is not a number; write one, without a unit", key)
    if number < 0:
        raise _wrong(path, line, column, f"{text[:40]} is below 0; write 0 or more", key)
    return number


def _check_order(path: Path, line: int, times: list[float], key: str) -> None:
    if len(times) == 1 and times[0] != 0:
        raise _wrong(path, line, "seconds", f"the first row is at 0, got {times[0]:g}; subtract it from all", key)
    if len(times) > 1 and times[-1] <= times[-2]:
        why = f"{times[-1]:g} does not come after {times[-2]:g}, the row before; sort the rows by time, each time once"
        raise _wrong(path, line, "seconds", why, key)


def _wrong(path: Path, line: int, column: str, why: str, key: str) -> ConfigError:
    return ConfigError(f"{path}:{line}: column {column[:40]}: {why}", key=key)
