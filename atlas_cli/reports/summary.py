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
    ``before`` is the primary metric on the test part in round 0, ``after`` in the last evaluated round, ``best`` in
    round ``best_round``, which was chosen by the metric on the part ``chosen_on``: "validation", where it was
    ``best_validation``, or "test", where there is no validation part. ``validation`` is its size in examples.
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
    validation: int | None
    chosen_on: str | None
    best_validation: float | None


def is_better(value: float, than: float, better: str, by: float = 0.0) -> bool:
    """Whether a metric is better by more than so much, where a "higher" or a "lower" one is."""
    return value < than - by if better == "lower" else value > than + by


def best_point(values: Sequence[tuple[int, float]], better: str) -> tuple[int, float]:
    """The (round, value) that is best; of equal ones the first."""
    best = values[0]
    for point in values[1:]:
        best = point if is_better(point[1], best[1], better) else best
    return best


def primary_metric(rows: Iterable[Record]) -> str | None:
    """The task's primary metric, as the first evaluated row names it; None where none was evaluated."""
    return next((row.get("metric") for row in rows if row["test"]), None)


def better_of(rows: Iterable[Record]) -> str | None:
    """Whether a "higher" or a "lower" primary metric is better, as the task declares it; never guessed by its name."""
    return next((row.get("better") for row in rows if row["test"]), None)


def lowest_sentence(better: Mapping[str, str | None]) -> str:
    """``best: the lowest perplexity`` where some of the metrics, by name, are better the lower; else empty."""
    lower = [metric for metric, direction in better.items() if direction == "lower"]
    higher = [metric for metric in better if metric not in lower]
    others = f", the highest {', '.join(higher)}" if higher else ""
    return f"best: the lowest {', '.join(lower)}{others}" if lower else ""


def by_group(metrics: Iterable[Record]) -> dict[str, list[Record]]:
    """Metrics records by task group, groups in order of appearance."""
    groups: dict[str, list[Record]] = {}
    for row in metrics:
        groups.setdefault(row["task_group"], []).append(row)
    return groups


def points(rows: Iterable[Record], metric: str, part: str = "test") -> list[tuple[int, float]]:
    """(round, value) of a metric on the test or validation part, where it was measured."""
    found = [(row["round"], (row.get(part) or {}).get(metric)) for row in rows]
    return [(number, value) for number, value in found if value is not None]


def validates(rows: Iterable[Record]) -> bool:
    """Whether a task group has a validation part."""
    return any(row.get("validation") is not None for row in rows)


def best_of(rows: Sequence[Record], metric: str, better: str) -> tuple[int, float | None, float | None] | None:
    """The best round by a metric, with its values on the test and on the validation part; None without any round.

    It is chosen on the validation part, or where there is none on the test part.
    """
    test, validation = dict(points(rows, metric)), dict(points(rows, metric, "validation"))
    chosen = validation if validates(rows) else test
    if not chosen:
        return None
    number, _ = best_point([*chosen.items()], better)
    return number, test.get(number), validation.get(number)


def chosen_sentence(summaries: Sequence[GroupSummary]) -> str:
    """``best round: chosen on the test part itself in spam, on the validation part in mail``."""
    where = {"test": "the test part itself", "validation": "the validation part"}
    groups = {part: dict.fromkeys(s.task_group for s in summaries if s.chosen_on == part) for part in where}
    said = [f"on {where[part]} in {', '.join(names)}" for part, names in groups.items() if names]
    return f"best round: chosen {', '.join(said)}" if said else ""


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
    best = best_of(rows, metric, better) if metric and better is not None else None
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
        validation=facts.get("validation"),
        chosen_on=("validation" if validates(rows) else "test") if best else None,
        best_validation=best[2] if best else None,
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
