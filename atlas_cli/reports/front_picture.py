"""A Pareto front as a picture in PNG or SVG: each figure against the memory of a client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from atlas_cli.errors import OutputError
from atlas_cli.reports.plots import STYLE

CHOSEN = "#D55E00"


def draw_front(
    path: Path,
    across: Sequence[float],
    figures: Mapping[str, Sequence[float]],
    blocks: Sequence[float],
    chosen: int | None,
    title: str,
) -> None:
    """Write a picture with a panel for each of ``figures``, by its label, and a point for each candidate.

    Args:
        across: MiB of memory of each candidate; ``blocks``: on a client, in the mean, which is its colour.
        chosen: the place of the chosen candidate, which has a ring.

    Raises:
        OutputError: the file cannot be written.
    """
    with matplotlib.rc_context(STYLE):
        rows = -(-len(figures) // 2)
        figure = Figure(figsize=(9, 0.8 + 3.1 * rows), layout="constrained", dpi=150)
        panels = figure.subplots(rows, 2, squeeze=False, sharex=True).ravel()
        points = None
        for axes, (label, values) in zip(panels, figures.items(), strict=False):
            points = axes.scatter(across, values, c=blocks, cmap="viridis", s=22, vmin=0)
            if chosen is not None:
                ring = {"s": 130, "facecolors": "none", "edgecolors": CHOSEN, "linewidths": 2, "label": "chosen"}
                axes.scatter([across[chosen]], [values[chosen]], **ring)
            axes.set_ylabel(label)
            axes.set_xlabel("largest peak of a client, MiB")
            axes.tick_params(labelbottom=True)
            for axis in (axes.xaxis, axes.yaxis):  # 20 M instead of 2 and 1e7 apart from it
                axis.set_major_formatter(EngFormatter())
        for axes in panels[len(figures) :]:
            axes.set_axis_off()
        if points is not None:
            figure.colorbar(points, ax=list(panels), label="blocks on a client, mean over clients")
        if chosen is not None:
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", frameon=False)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        try:
            figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}") from None
