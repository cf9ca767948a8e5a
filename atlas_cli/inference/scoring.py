"""Scores a trained model on examples: figures with intervals, figures by class, and what it made of each example."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from atlas_cli.federation.parties.evaluation import Evaluator
from atlas_cli.inference.loaded_model import LoadedModel
from atlas_cli.inference.scored_parts import ScoredPart
from atlas_cli.runs.outcomes import Outcomes, Terms
from atlas_cli.tasks.contract import BaseTask, ClassCounts, Feature, Metric, Prediction, Term, with_original_ids
from atlas_cli.wire.messages import Activations


@dataclass(frozen=True)
class Scores:
    """What a model reaches on a part.

    Attributes:
        outcomes: figures, and what they are summed up from by example.
        by_class: as the task counts classes; empty where it has none.
        bytes_up: of the activations of all examples, which cross the cut.
    """

    outcomes: Outcomes
    by_class: Mapping[str, ClassCounts]
    bytes_up: int

    def confusion(self, classes: Sequence[str]) -> list[list[int]] | None:
        """How often each class (rows) was predicted as each (columns); None where an example has no one class."""
        labels, predicted = self.outcomes.labels, self.outcomes.predicted
        if labels is None or predicted is None or not classes:
            return None
        pairs = Counter(zip(labels, predicted, strict=True))
        return [[pairs[label, said] for said in classes] for label in classes]


class _EachExample(Metric):
    """A task's metric of all examples, and one of each example alone."""

    def __init__(self, task: BaseTask, token_bytes: int) -> None:
        self.task, self.whole, self.token_bytes = task, task.metric(), token_bytes
        self.alone: dict[int, Metric] = {}
        self.said: dict[int, list[Prediction]] = {}
        self.labels: dict[int, object] = {}
        self.bytes_up = 0

    def update(self, logits: Tensor, labels: Tensor, features: Sequence[Feature]) -> None:
        """Add a batch to the whole, and each feature to its example."""
        self.whole.update(logits, labels, features)
        longest = max(len(feature["input_ids"]) for feature in features)
        self.bytes_up += Activations.closed_form(len(features), longest, self.token_bytes, 0)
        for i, (feature, said) in enumerate(zip(features, self.task.predictions(logits, features), strict=True)):
            row = feature["row"]
            alone = self.alone.setdefault(row, self.task.metric())
            alone.update(logits[i : i + 1], labels[i : i + 1], [feature])
            self.said.setdefault(row, []).append(said)
            self.labels[row] = feature["labels"]

    def compute(self) -> dict[str, float]:
        """The figures of the whole."""
        return self.whole.compute()


def score(loaded: LoadedModel, part: ScoredPart, evaluator: Evaluator | None = None) -> Scores:
    """Score a model on a part, through the split unless an ``evaluator`` says otherwise."""
    task, lower = loaded.task, loaded.halves.lower
    metric = _EachExample(task, lower.hidden_size * lower.dtype.itemsize)
    if evaluator is None:
        loaded.evaluator().measure(task, part.features, loaded.model, metric)
    else:  # nothing is sent, so that no token need be replaced
        evaluator.measure(task, [*map(with_original_ids, part.features)], loaded.model, metric)
    figures = task.scores(metric)
    rows = sorted(metric.alone)  # each example once, in the order of the part
    terms = [metric.alone[row].terms(metric.whole) for row in rows]
    labels, predicted = _values(task, metric, rows)
    outcomes = Outcomes(
        task_group=loaded.owner.group,
        client=loaded.owner.client,
        part=part.name,
        round=loaded.round,
        rows_sha256=part.sha256,
        metric=task.primary_metric,
        better=dict(task.better),
        figures={name: value if math.isfinite(value) else None for name, value in figures.items()},
        examples=len(rows),
        labels=labels,
        predicted=predicted,
        terms={name: _together(name, terms) for name in dict.fromkeys(name for each in terms for name in each)},
    )
    return Scores(outcomes, metric.whole.by_class(), metric.bytes_up)


def _values(
    task: BaseTask, metric: _EachExample, rows: Sequence[int]
) -> tuple[list[str] | None, list[str] | None] | tuple[list[float] | None, list[float] | None]:
    """Label and prediction of each example, where these are one class or one number; else None."""
    if "label" not in task.prediction_fields or any(isinstance(metric.labels[row], list) for row in rows):
        return None, None
    said = [task.joined_predictions(metric.said[row])["label"] for row in rows]
    labels: list[float] = [float(metric.labels[row]) for row in rows]  # type: ignore[arg-type]
    if task.one_class:
        return [task.classes[int(number)] for number in labels], [str(each) for each in said]
    return labels, [float(each) for each in said]


def _together(name: str, each: Sequence[Mapping[str, Term]]) -> Terms:
    """The terms of a figure, of all examples; one that adds nothing to it has a value and a weight of 0."""
    found = [terms.get(name, Term(0.0, 0.0)) for terms in each]
    weights = [float(term.weight) for term in found]
    then = next(term.then for terms in each if (term := terms.get(name)) is not None)
    return Terms(
        values=[float(term.value) for term in found],
        weights=None if all(weight == 1 for weight in weights) else weights,
        then=then,
    )
