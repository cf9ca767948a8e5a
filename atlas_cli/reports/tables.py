"""The table at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from atlas_cli.reports import privacy
from atlas_cli.reports.summary import GroupSummary, Record, drops_sentence, lowest_sentence, means_sentence, summarise
from atlas_cli.units import format_bytes_mb, format_number

SIZES = ("clients", "train", "test")
HEADINGS = (
    *("task group", *SIZES, "metric", "before", "after", "best (round)"),
    *("loss", "merge error", "up, MB", "down, MB", "time, s"),
)


def final_table(
    metrics: Sequence[Record], clients: Sequence[Record], data: Mapping[str, Record] | None = None
) -> Table:
    """A row a task group: the test metric before and after training, the last loss, how far the last
    delivery is from the exact sum, bytes on the wire, time.

    Args:
        metrics: records of metrics.jsonl.
        clients: records of clients.jsonl.
        data: the manifest's ``data``, for the columns of sizes, which want 100 characters; without them it fits 80.
    """
    caption = (
        "metric: on the held-out test part, before is round 0\n"
        "merge error: of the last delivery against the exact sum of updates, cut ranks included\n"
        "up: clients to server; MB: 1,000,000 bytes"
    )
    if metrics:
        caption += f"\n{privacy.sentence(metrics)}"
    summaries = summarise(metrics, clients, data)
    if lowest := lowest_sentence({s.metric: s.better for s in summaries if s.metric}):
        caption += f"\n{lowest}"
    for sentence in (means_sentence(summaries), drops_sentence(summaries)):
        caption += f"\n{sentence}" if sentence else ""
    table = Table(title="Result", caption=caption, **layout())
    shown = [i for i, heading in enumerate(HEADINGS) if data is not None or heading not in SIZES]
    for i in shown:
        text = HEADINGS[i].replace(", ", ",\n").replace(" (", "\n(").replace("merge ", "merge\n")
        table.add_column(
            text,
            justify="left" if i in (0, 4) else "right",
            no_wrap=i > 0,
            overflow="fold",
            min_width=10 if i == 0 else None,
        )
    for summary in summaries:
        row = cells(summary)
        table.add_row(*(row[i] for i in shown))
    return table


def cells(summary: GroupSummary) -> list[str]:
    """The texts of a row, in the order of ``HEADINGS``."""
    best = "n/a" if summary.best is None else f"{format_number(summary.best)} ({summary.best_round})"
    return [
        summary.task_group,
        str(summary.clients),
        "n/a" if summary.train is None else f"{summary.train:,}",
        "n/a" if summary.test is None else f"{summary.test:,}",
        summary.metric or "n/a",
        format_number(summary.before),
        format_number(summary.after),
        best,
        format_number(summary.loss) + (f" ({summary.loss_round})" if summary.loss_round is not None else ""),
        "-" if summary.error is None else f"{summary.error:.2g}",
        format_bytes_mb(summary.bytes_up).removesuffix(" MB"),
        format_bytes_mb(summary.bytes_down).removesuffix(" MB"),
        f"{summary.seconds:,.0f}",
    ]


def layout() -> dict[str, Any]:
    """How all tables look: narrow enough for a terminal of 80 characters."""
    return {
        "box": box.SIMPLE_HEAD,
        "padding": 0,
        "show_edge": False,
        "title_justify": "left",
        "caption_justify": "left",
    }


def plan_table(rows: Sequence[tuple[str, str, int, str, int, int, str | None]]) -> Table:
    """A row a client, or of clients alike.

    Name, task group, split layer, ranks, adapter parameters, bytes up a full step, examples.
    """
    table = Table(
        title="Plan",
        caption="up a step: activations of a full batch at the longest length; MB: 1,000,000 bytes",
        **layout(),
    )
    for heading in ("client", "task group"):
        table.add_column(heading, justify="left", overflow="fold")
    for heading in ("split\nlayer", "rank", "adapter\nparameters", "up a step,\nMB", "training\nexamples"):
        table.add_column(heading, justify="right", overflow="fold")
    for client, group, cut, ranks, parameters, up, examples in rows:
        trained, size = f"{parameters:,}", format_bytes_mb(up).removesuffix(" MB")
        table.add_row(client, group, str(cut), ranks, trained, size, examples or "-")
    return table


def data_table(title: str, rows: Sequence[tuple[str, str, str, str, str, str]]) -> Table:
    """A row a client: name, training and local test examples, label shares, token lengths, truncated examples."""
    table = Table(title=title, **layout())
    for heading in ("client", "train", "local\ntest", "labels", "tokens\nmin / median / max", "truncated"):
        table.add_column(heading, justify="left" if heading in ("client", "labels") else "right", overflow="fold")
    for client, train, local, labels, lengths, cut in rows:
        table.add_row(client, train, local, labels or "-", lengths, cut)
    return table
