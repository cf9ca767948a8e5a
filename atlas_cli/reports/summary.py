"""Summarises a run's records by task group, for the final table and the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]


@dataclass(frozen=True)
class GroupSummary:
    """One task group over the whole run; None where the records do not say.

    ``better`` says whether a "higher" or a "lower" ``metric`` is better, as its task declares.
    ``before`` is the primary metric in round 0, ``after`` in the last evaluated round, ``best`` in
    round ``best_round``.
    ``drops`` counts a client once for every round that it was dropped in.
    ``test_sha256`` is the hash of the rows of the test part, ``models`` how many models were scored on it: where there
    are several the metric is the mean over clients. ``loss_round`` is where ``loss`` is from, if not the last round.
    Bytes are serialised bytes of all rounds, set-up included; up is client to server.
    """

    task_group: str
    clients: int
    train: int | None
    test: int | None
    metric: str | None
    better: str | None
    before: float | None
    after: float | None
    best: float | None
    best_round: int | None
    loss: float | None
    error: float | None
    bytes_up: int
    bytes_down: int
    seconds: float
    drops: int
    test_sha256: str | None
    models: int | None
    loss_round: int | None


def primary_metric(rows: Iterable[Record]) -> str | None:
    """The task's primary metric, as the first evaluated row names it; None where none was evaluated."""
    return next((row.get("metric") for row in rows if row["test"]), None)


def better_of(rows: Iterable[Record]) -> str | None:
    """Whether a "higher" or a "lower" primary metric is better, as the task declares it; never guessed by its name."""
    return next((row.get("better") for row in rows if row["test"]), None)


def lowest_sentence(better: Mapping[str, str | None]) -> str:
    """``best: the lowest perplexity`` where some of the metrics, by name, are better the lower; else empty."""
    lower = [metric for metric, direction in better.items() if direction == "lower"]
    return f"best: the lowest {', '.join(lower)}" if lower else ""


def by_group(metrics: Iterable[Record]) -> dict[str, list[Record]]:
    """Metrics records by task group, groups in order of appearance."""
    groups: dict[str, list[Record]] = {}
    for row in metrics:
        groups.setdefault(row["task_group"], []).append(row)
    return groups


def points(rows: Iterable[Record], metric: str) -> list[tuple[int, float]]:
    """(round, value) of a test metric, where it was measured."""
    return [(row["round"], row["test"][metric]) for row in rows if row["test"].get(metric) is not None]


def losses(rows: Iterable[Record]) -> list[tuple[int, float]]:
    """(round, mean training loss), from round 1 on."""
    return [(row["round"], row["train_loss"]) for row in rows if row["train_loss"] is not None]


def summarise(
    metrics: Sequence[Record], clients: Sequence[Record], data: Mapping[str, Record] | None = None
) -> list[GroupSummary]:
    """One summary per task group.

    Args:
        metrics: records of metrics.jsonl.
        clients: records of clients.jsonl.
        data: the manifest's ``data``, for the sizes of the train and test parts.
    """
    members: dict[str, set[str]] = {}
    for row in clients:
        members.setdefault(row["task_group"], set()).add(row["client"])
    return [
        _summary(name, rows, len(members.get(name, ())), (data or {}).get(name, {}))
        for name, rows in by_group(metrics).items()
    ]


def drops_sentence(summaries: Sequence[GroupSummary]) -> str:
    """``clients dropped for a round: 3 in questions, 1 in spam``; empty where nobody was."""
    counts = [f"{s.drops} in {s.task_group}" for s in summaries if s.drops]
    return f"clients dropped for a round: {', '.join(counts)}" if counts else ""


def means_sentence(summaries: Sequence[GroupSummary]) -> str:
    """``metric is the plain mean over clients in spam (of 6 models)``; empty where each group has one model."""
    several = [f"{s.task_group} (of {s.models} models)" for s in summaries if s.models is not None and s.models > 1]
    return f"metric is the plain mean over clients in {', '.join(several)}" if several else ""


def _summary(name: str, rows: list[Record], n_clients: int, facts: Record) -> GroupSummary:
    metric = primary_metric(rows)
    values = points(rows, metric) if metric else []
    better = better_of(rows)
    best = None
    if values and better is not None:
        best = (min if better == "lower" else max)(values, key=lambda point: point[1])
    training = losses(rows)
    return GroupSummary(
        task_group=name,
        clients=n_clients,
        train=facts.get("train"),
        test=facts.get("test"),
        metric=metric,
        better=better,
        before=next((value for round_, value in values if round_ == 0), None),
        after=next((row["test"].get(metric) for row in reversed(rows) if row["test"]), None),
        best=best[1] if best else None,
        best_round=best[0] if best else None,
        loss=training[-1][1] if training else None,
        error=next((row["aggregation_error"] for row in reversed(rows) if row["participants"]), None),
        bytes_up=sum(row["bytes_up"] for row in rows),
        bytes_down=sum(row["bytes_down"] for row in rows),
        seconds=sum(row["seconds"] for row in rows),
        drops=sum(len(row["dropped"]) for row in rows),
        test_sha256=facts.get("test_sha256"),
        models=next((row.get("models") for row in reversed(rows) if row["test"]), None),
        loss_round=training[-1][0] if training and training[-1][0] != rows[-1]["round"] else None,
    )
