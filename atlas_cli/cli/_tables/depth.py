"""Leakage and client cost of each split layer: a table, a picture, and the file for split-point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.table import Table

from atlas_cli.audit.depth import Depth
from atlas_cli.planning.cuts.choice import SplitChoice
from atlas_cli.reports.plots import COLOURS, MARKERS, STYLE
from atlas_cli.units import MIB

ATTACK = "the better of nearest embedding and ridge inverter, share of tokens, upper end of the 95 % interval"


def leakage_file(layers: Sequence[Depth], source: str) -> dict[str, Any]:
    """The content of the file that ``atlas split-point --leakage`` reads."""
    shares = {str(each.layer): round(each.leakage, 4) for each in layers}
    return {"layer": shares, "attack": ATTACK, "source": source}


def depth_record(layers: Sequence[Depth], costs: SplitChoice) -> list[dict[str, Any]]:
    """One entry per layer; memory in bytes, seconds of a step on the device named."""
    return [
        {
            **asdict(each),
            "leakage": each.leakage,
            "client_memory": row.memory.peak,
            "seconds": row.seconds.total if row.seconds else None,
            "device": costs.device.name if costs.device else None,
        }
        for each, row in zip(layers, costs.rows, strict=True)
    ]


def depth_table(layers: Sequence[Depth], costs: SplitChoice) -> Table:
    """One row per layer."""
    names = [name.partition("-")[0] for name in layers[0].recovered]
    device = costs.device.name if costs.device else ""
    table = Table(title=f"{costs.model}: what a cut gives away and costs ({device})", title_justify="left", box=None)
    for heading in ("layer", *names, "dCor^2", "dFIL", "client MiB", "step s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each, row in zip(layers, costs.rows, strict=True):
        shares = [f"{found.value:.3f} ({found.low:.3f}-{found.high:.3f})" for found in each.recovered.values()]
        seconds = f"{row.seconds.total:.3g}" if row.seconds else "-"
        measures = (f"{each.distance_correlation:.3f}", f"{each.dfil:.3g}", f"{row.memory.peak / MIB:.1f}", seconds)
        table.add_row(str(each.layer), *shares, *measures)
    return table


def draw_depth(layers: Sequence[Depth], costs: SplitChoice, path: Path) -> None:
    """Recovery and distance correlation, dFIL, and cost by layer; PNG or SVG by the suffix of ``path``."""
    at = [each.layer for each in layers]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 7.6), layout="constrained")
        top, middle, bottom = figure.subplots(3, sharex=True, height_ratios=(3, 2, 2))
        for i, name in enumerate(layers[0].recovered):
            found = [each.recovered[name] for each in layers]
            style: Any = {"color": COLOURS[i], "marker": MARKERS[i], "markersize": 4}
            top.plot(at, [f.value for f in found], label=f"tokens recovered: {name}", **style)
            top.fill_between(at, [f.low for f in found], [f.high for f in found], color=COLOURS[i], alpha=0.15, lw=0)
        correlations = [each.distance_correlation for each in layers]
        top.plot(
            at, correlations, "--", color=COLOURS[2], marker="D", markersize=4, label="distance correlation, squared"
        )
        top.set(ylim=(-0.02, 1.02), ylabel="share")
        middle.plot(at, [each.dfil for each in layers], color=COLOURS[3], marker="^", markersize=4)
        middle.set(ylim=(0, None), ylabel="dFIL")
        bottom.bar(at, [row.memory.peak / MIB for row in costs.rows], color=COLOURS[5], label="memory")
        bottom.set(xlabel="split layer: blocks on the client", ylabel="client memory, MiB")
        if all(row.seconds for row in costs.rows):
            seconds = bottom.twinx()
            seconds.plot(at, [row.seconds.total for row in costs.rows if row.seconds], color=COLOURS[7], marker="o")
            seconds.set(ylim=(0, None), ylabel="s a step")
        for axes in (top, middle, bottom):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(color="#DDDDDD", linewidth=0.6)
        figure.legend(handles=top.lines, loc="outside upper left", frameon=False)
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
