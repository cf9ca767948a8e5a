"""Pictures of a run as inline SVG: no script, no link, no font or colour that only some readers can see."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

from atlas_cli.reports.memory import PARTS, Holder, holders
from atlas_cli.reports.summary import Record, by_group, losses, points, primary_metric
from atlas_cli.runs.schemas import KINDS
from atlas_cli.units import MB, MIB, format_bytes_mb, format_bytes_mib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, without the yellow that is hard to see on white.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C6D31", "#4D4D4D")
MARKERS = "osD^vPX*"
MAX_BARS = 30

STYLE: Any = {
    "svg.hashsalt": "atlas",  # the same run gives the same file
    "svg.fonttype": "path",
    "text.parse_math": False,  # a name with a dollar sign is a name
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
}


def loss_svg(metrics: Sequence[Record]) -> str:
    """Mean training loss by round, a line a task group."""
    return _lines({group: losses(rows) for group, rows in by_group(metrics).items()}, "mean training loss")


def metric_svgs(metrics: Sequence[Record]) -> list[tuple[str, str]]:
    """(metric, picture): the primary test metric by round, from round 0; one picture per metric."""
    groups = by_group(metrics)
    primary = {group: primary_metric(rows) for group, rows in groups.items()}
    pictures = []
    for metric in dict.fromkeys(name for name in primary.values() if name):
        # All groups take part, so that a group has one colour in all pictures.
        series = {g: points(rows, metric) if primary[g] == metric else [] for g, rows in groups.items()}
        pictures.append((metric, _lines(series, f"{metric.replace('_', ' ')} on the test part")))
    return pictures


def bytes_svg(messages: Sequence[Record]) -> str:
    """Serialised bytes by kind and direction; messages sent once at set-up have an axis of their own."""
    total: dict[tuple[str, str], int] = {}
    for row in messages:
        key = row["kind"], row["direction"]
        total[key] = total.get(key, 0) + row["bytes"]
    setup = {key: n for key, n in total.items() if key[0] == "base-weights" and n}
    rounds = {key: n for key, n in total.items() if key[0] != "base-weights"}
    with _figure(8.4, 2.6 + 1.2 * bool(setup)) as figure:
        ratios = [2, 1] if setup else [1]
        axes = figure.subplots(len(ratios), 1, squeeze=False, height_ratios=ratios)[:, 0]
        _stack_bytes(axes[0], rounds, {"up": "clients to server", "down": "server to clients"})
        if setup:
            _stack_bytes(axes[1], setup, {"down": "set-up"} if ("base-weights", "down") in setup else {"up": "set-up"})
        axes[-1].set_xlabel("MB sent in the whole run, as serialised (1 MB = 1,000,000 bytes)")
        figure.legend(loc="outside upper left", ncols=4, frameon=False)
        return _svg(figure)


def memory_svg(memory: Record) -> tuple[str, str]:
    """(picture, note): bytes by part, a bar per client, then the server and the references.

    The note says which clients share a bar or are not shown, and is empty when each client has its own.
    """
    rows = holders(memory, MAX_BARS)
    clients = [row for row in rows if row.clients]
    hidden = sorted(clients, key=lambda row: -row.total)[MAX_BARS:]
    shown = [row for row in rows if row not in hidden]
    notes = []
    if len(clients) < len(memory["clients"]):
        notes.append(
            f"{len(memory['clients'])} clients by kind; a bar shows the client of its kind with the largest total."
        )
    if hidden:
        notes.append(
            f"Not shown: {sum(row.clients for row in hidden)} clients in {len(hidden)} bars with smaller totals."
        )
    with _figure(8.4, 1.6 + 0.28 * len(shown)) as figure:
        axes = figure.subplots()
        _stack_memory(axes, shown)
        figure.legend(loc="outside upper left", ncols=4, frameon=False)
        return _svg(figure), " ".join(notes)


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    """A figure in the style of reports; matplotlib, half a second of imports, is not loaded before the first."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def _lines(series: Mapping[str, list[tuple[int, float]]], label: str) -> str:
    from matplotlib.ticker import MaxNLocator

    drawn = [values for values in series.values() if values]
    with _figure(5.6, 3.2 + 0.1 * len(drawn)) as figure:  # a legend of two columns grows
        axes = figure.subplots()
        for i, (group, values) in enumerate(series.items()):
            if values:
                style = ("-", "--", ":", "-.")[i // len(COLOURS) % 4]
                x, y = zip(*values, strict=True)
                colour = COLOURS[i % len(COLOURS)]
                axes.plot(x, y, style, color=colour, marker=MARKERS[i % len(MARKERS)], markersize=4, label=group)
        every = [value for values in drawn for _, value in values]
        if every and min(every) > 0 and max(every) / min(every) > 20:  # a perplexity before training hides all others
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
            label += " (log scale)"
        axes.set(xlabel="round", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="#DDDDDD", linewidth=0.6)
        if axes.lines:
            figure.legend(loc="outside upper left", ncols=2, frameon=False)
        return _svg(figure)


def _stack_bytes(axes: Axes, total: Mapping[tuple[str, str], int], directions: Mapping[str, str]) -> None:
    names = list(directions.values())
    ends = [0.0] * len(names)
    for i, kind in enumerate(KINDS):
        widths = [total.get((kind, direction), 0) / MB for direction in directions]
        if any(widths):
            axes.barh(
                names, widths, left=ends, color=COLOURS[i % len(COLOURS)], label=kind, edgecolor="white", linewidth=0.5
            )
            ends = [end + width for end, width in zip(ends, widths, strict=True)]
    _totals(axes, ends, [format_bytes_mb(round(end * MB)) for end in ends])


def _stack_memory(axes: Axes, rows: Sequence[Holder]) -> None:
    places = list(range(len(rows)))
    ends = [0.0] * len(rows)
    for i, (key, label) in enumerate(PARTS.items()):
        widths = [(row.parts[key] or 0) / MIB for row in rows]
        if any(widths):
            axes.barh(
                places,
                widths,
                left=ends,
                color=COLOURS[i % len(COLOURS)],
                label=label,
                edgecolor="white",
                linewidth=0.5,
            )
            ends = [end + width for end, width in zip(ends, widths, strict=True)]
    axes.set_yticks(places, [row.label for row in rows])
    axes.set_xlabel("MiB (1 MiB = 1,048,576 bytes)")
    axes.set_ylim(-0.6, len(rows) - 0.4)
    _totals(axes, ends, [format_bytes_mib(row.total) for row in rows])


def _totals(axes: Axes, ends: Sequence[float], texts: Sequence[str]) -> None:
    axes.invert_yaxis()
    axes.set_xlim(0, (max(ends, default=0) or 1) * 1.18)  # room for the figure behind the longest bar
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    for i, (end, text) in enumerate(zip(ends, texts, strict=True)):
        axes.annotate(text, (end, i), xytext=(4, 0), textcoords="offset points", va="center")


def _svg(figure: Figure) -> str:
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Creator": None, "Date": None, "Format": None, "Type": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # Inside HTML the namespaces are implied; without them the page holds no address at all.
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", svg, count=2)
    return re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
