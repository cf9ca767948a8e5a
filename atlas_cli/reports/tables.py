"""The table at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from atlas_cli.reports import privacy
from atlas_cli.reports.fitted import Column, fitted_table, layout
from atlas_cli.reports.summary import (
    GroupSummary,
    Record,
    chosen_sentence,
    drops_sentence,
    lowest_sentence,
    means_sentence,
    summarise,
)
from atlas_cli.units import format_bytes_mb, format_number

SIZES = ("clients", "train", "test")  # left out first on a narrow terminal
HEADINGS = (
    *("task group", *SIZES, "metric", "before", "after", "best (round)"),
    *("loss", "merge error", "up, MB", "down, MB", "time, s"),
)


def final_table(
    metrics: Sequence[Record], clients: Sequence[Record], data: Mapping[str, Record] | None = None, width: int = 80
) -> Table:
    """A row a task group: the test metric before and after training, the last loss, how far the last
    delivery is from the exact sum, bytes on the wire, time.

    Args:
        metrics: records of metrics.jsonl.
        clients: records of clients.jsonl.
        data: the manifest's ``data``, for the columns of sizes.
        width: of the terminal.
    """
    caption = (
        "metric: on the held-out test part, before is round 0\n"
        "merge error: of the last delivery, as a share of the norm of the exact sum of updates, cut ranks included\n"
        "up: clients to server; MB: 1,000,000 bytes"
    )
    if metrics:
        caption += f"\n{privacy.sentence(metrics)}"
    summaries = summarise(metrics, clients, data)
    if lowest := lowest_sentence({s.metric: s.better for s in summaries if s.metric}):
        caption += f"\n{lowest}"
    for sentence in (chosen_sentence(summaries), means_sentence(summaries), drops_sentence(summaries)):
        caption += f"\n{sentence}" if sentence else ""
    columns = [
        Column(
            heading.replace(", ", ",\n").replace(" (", "\n(").replace("merge ", "merge\n"),
            texts,
            right=i not in (0, 4),
            folds=i == 0,
            spare=int(heading in SIZES),
        )
        for i, (heading, texts) in enumerate(zip(HEADINGS, _columns(summaries), strict=True))
        if data is not None or heading not in SIZES
    ]
    return fitted_table(columns, width, "Result", caption)


def _columns(summaries: Sequence[GroupSummary]) -> list[tuple[str, ...]]:
    """The texts of each heading."""
    rows = [cells(summary) for summary in summaries]
    return [tuple(row[i] for row in rows) for i in range(len(HEADINGS))]


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
        f"{summary.seconds:.3g}" if summary.seconds < 10 else f"{summary.seconds:,.0f}",
    ]


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
