"""Bars of the ratios, each with its quartiles and its target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from contestants.comparisons import Result


def draw(found: Sequence[Result], path: Path) -> None:
    """A bar a line of the table; where a lower figure is better, the label says so."""
    figure = Figure(figsize=(9, 0.9 + 0.42 * len(found)), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="times as fast as the other way (memory: share of it)")
    labels = [f"{r.against}{' (lower is better)' if r.at_most else ''}\n{r.work}" for r in found]
    places = range(len(found))
    medians = [r.figure["median"] for r in found]
    errors = [
        [m - r.figure["q1"] for m, r in zip(medians, found, strict=True)],
        [r.figure["q3"] - m for m, r in zip(medians, found, strict=True)],
    ]
    colours = {True: "tab:green", False: "tab:red", None: "tab:gray"}
    axes.barh(places, medians, xerr=errors, color=[colours[r.reached] for r in found], height=0.6)
    for place, result in zip(places, found, strict=True):
        text = f"{result.figure['median']:.2f}"
        if result.target is not None:
            axes.plot([result.target] * 2, [place - 0.42, place + 0.42], color="black", linewidth=2)
            text += f"  (target {result.target:g})"
        end = max(result.figure["q3"], result.target or 0)
        axes.annotate(text, (end, place), (6, 0), textcoords="offset points", va="center")
    axes.set_yticks(places, labels, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1.0, color="gray", linewidth=0.8, linestyle=":")
    axes.set_xlim(0.2, 2 * max(medians))
    axes.set_xticks(ticks := [t for t in (0.25, 0.5, 1, 2, 4, 8, 16) if t < 2 * max(medians)], map(str, ticks))
    axes.minorticks_off()
    figure.savefig(path)
