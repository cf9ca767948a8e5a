"""The clients: whose labels are whose, who failed or was late, and what became of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from atlas_cli.reports.charts.cells import cell_chart
from atlas_cli.reports.page.elements import Cell, figure, figures, figures_beside, paragraph, table, words
from atlas_cli.reports.page.records import RunRecords, counted, listed
from atlas_cli.reports.summary import Record, primary_metric

MAX_CLIENTS, MAX_CLASSES, MAX_GROUPS = 30, 12, 8


def skew(records: RunRecords) -> str:
    """For every task group with classes, the shares of each client's labels."""
    labels: dict[str, dict[str, Mapping[str, int]]] = {}
    for row in records.clients:
        if row.get("labels"):
            labels.setdefault(row["task_group"], {})[row["client"]] = row["labels"]
    made = [
        _skew_of(records, group, found) for group, found in list(labels.items())[:MAX_GROUPS] if group in records.groups
    ]
    left = len(labels) - MAX_GROUPS
    more = f"Not drawn: {left} more task groups; clients.jsonl has all." if left > 0 else ""
    return figures_beside(made) + paragraph(more) if made else ""


def _skew_of(records: RunRecords, group: str, labels: Mapping[str, Mapping[str, int]]) -> str:
    totals = Counter[str]()
    for counts in labels.values():
        totals.update(counts)
    names = [name for name, _ in totals.most_common(MAX_CLASSES)]
    rest = len(totals) - len(names)
    left = [f"{len(labels) - MAX_CLIENTS:,} more clients"] if len(labels) > MAX_CLIENTS else []
    left += [f"{rest} rarer classes"] if rest else []
    note = f" Not drawn: {' and '.join(left)}; clients.jsonl has all." if left else ""
    caption = f"{group}: share of each class in a client's training labels.{note}"
    shown = list(labels.items())[:MAX_CLIENTS]
    shares = [(client, [counts.get(name, 0) / sum(counts.values()) for name in names]) for client, counts in shown]
    picture = cell_chart(shares, names, records.colour(group), caption, "class", 1.0)
    data = [(client, name, counts.get(name, 0)) for client, counts in shown for name in names]
    columns = [words("client"), words("class"), figures("training labels")]
    return figure(picture, caption, columns, data, "clients.jsonl")


def failures(records: RunRecords) -> str:
    """Who of a cohort is not in a round's merge, and why."""
    asked, missed = Counter[str](), dict[str, list[tuple[int, str]]]()
    group_of: dict[str, str] = {}
    for row in records.metrics:
        asked.update([*row["participants"], *row["dropped"]])
        for client, reason in row["dropped"].items():
            missed.setdefault(client, []).append((row["round"], reason))
            group_of[client] = row["task_group"]
    if not missed:
        return paragraph("Every client that was asked is in the merge of its round.")
    total = sum(map(len, missed.values()))
    late = sum(reason.startswith("deadline") for lines in missed.values() for _, reason in lines)
    said = (
        f"{counted(total, 'time')} a client is not in a merge that it was asked for, {late:,} of them as it was late."
    )
    columns = [words("client"), words("task group"), figures("rounds asked"), figures("not in the merge"), words("why")]
    ordered = sorted(missed.items(), key=lambda item: -len(item[1]))
    rows = [(client, group_of[client], asked[client], len(lines), _why(lines)) for client, lines in ordered]
    return paragraph(said) + table(columns, rows, "Clients that failed, were late or were left out", "metrics.jsonl")


def _why(lines: Sequence[tuple[int, str]]) -> str:
    """``round 2: failed before step 3; round 4: ...``, the first three."""
    more = f"; and in {counted(len(lines) - 3, 'more round')}" if len(lines) > 3 else ""
    return "; ".join(f"round {round_}: {reason}" for round_, reason in lines[:3]) + more


def every_client(records: RunRecords) -> str:
    """A row a client: rank, rounds, examples, last loss, local test, bytes."""
    primary = {group: primary_metric(rows) for group, rows in records.groups.items()}
    columns = [words("client"), words("task group"), words("rank"), *map(figures, ("rounds", "examples seen"))]
    columns += [*map(figures, ("last loss", "local test", "bytes up", "bytes down"))]
    rows = [_row(name, lines, rank_of(records, name), primary) for name, lines in records.by_client.items()]
    measured = dict.fromkeys(metric.replace("_", " ") for metric in primary.values() if metric)
    rows_of = [f"{group} has {counted(n, 'row')}" for group in primary if (n := _local_tests(records, group))]
    few = f"; over all its clients {listed(rows_of)}" if rows_of else ""
    said = (
        "Examples seen: what it trained on in all rounds, a row as often as it was seen. Local test: "
        f"{', '.join(measured)} on the client's own test part, where it has one{few}"
    )
    return table(columns, rows, f"Every client. {said}", "clients.jsonl")


def _local_tests(records: RunRecords, group: str) -> int:
    """Rows of the local test parts of all clients of a task group."""
    return records.data.get(group, {}).get("local_test") or 0


def rank_of(records: RunRecords, client: str) -> str:
    """A client's rank as the config has it; ``n/a`` for a client that the config does not name."""
    entry = records.entry_of(client)
    if entry is None:
        return "n/a"
    rank = entry.get("rank") or records.config.get("lora", {}).get("rank")
    return ", ".join(f"{layer}: {r}" for layer, r in rank.items()) if isinstance(rank, dict) else str(rank)


def _row(name: str, lines: Sequence[Record], rank: str, primary: Mapping[str, str | None]) -> tuple[Cell, ...]:
    losses = [line["train_loss"] for line in lines if line["train_loss"] is not None]
    tests = [line["local_test"] for line in lines if line["local_test"]]
    metric = primary.get(lines[-1]["task_group"])
    return (
        *(name, lines[-1]["task_group"], rank),
        sum(line["participated"] for line in lines),
        sum(line["examples"] for line in lines),
        losses[-1] if losses else None,
        tests[-1].get(metric) if tests and metric else None,
        sum(line["bytes_up"] for line in lines),
        sum(line["bytes_down"] for line in lines),
    )
