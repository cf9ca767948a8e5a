"""Where memory goes, as a bar picture in PNG or SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from atlas_cli.errors import ConfigError, OutputError
from atlas_cli.reports.charts.bars import MAX_BARS
from atlas_cli.reports.memory import Holder
from atlas_cli.reports.plots import COLOURS
from atlas_cli.units import MIB, format_bytes_mib

FORMATS = (".png", ".svg")


def check_name(path: Path) -> None:
    """Refuse a name of another format, before anything is computed.

    Raises:
        ConfigError: neither PNG nor SVG.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"--plot writes PNG or SVG, by the end of the name; give {path.stem}.png or {path.stem}.svg")


def draw(path: Path, rows: Sequence[Holder], parts: Mapping[str, str], title: str) -> None:
    """Write a picture with a bar a row, stacked by part, in MiB.

    Args:
        parts: the label of each key of the rows' parts, in the order of the stack.

    Raises:
        OutputError: the file cannot be written.
    """
    shown = rows if len(rows) <= MAX_BARS else [*rows[: MAX_BARS - 3], *rows[-3:]]
    with matplotlib.rc_context({"svg.hashsalt": "atlas", "text.parse_math": False, "font.size": 10}):
        figure = Figure(figsize=(9, 2 + 0.3 * len(shown)), layout="constrained", dpi=150)
        axes = figure.subplots()
        ends = [0.0] * len(shown)
        for colour, (key, label) in zip(COLOURS, parts.items(), strict=False):
            widths = [(row.parts.get(key) or 0) / MIB for row in shown]
            if any(widths):
                axes.barh(range(len(shown)), widths, left=ends, color=colour, label=label, edgecolor="white")
                ends = [end + width for end, width in zip(ends, widths, strict=True)]
        for place, (end, row) in enumerate(zip(ends, shown, strict=True)):
            text = format_bytes_mib(row.total)
            axes.annotate(text, (end, place), xytext=(4, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(shown)), [row.label for row in shown])
        axes.invert_yaxis()
        axes.set_xlim(0, (max(ends) or 1) * 1.18)  # room for the figure behind the longest bar
        axes.set_xlabel("MiB (1 MiB = 1,048,576 bytes)")
        axes.set_title(title, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=4, frameon=False)
        try:
            figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}") from None
