"""One class for a text, or for a pair of texts.

Metrics: accuracy, macro_f1 (over classes that occur in labels or predictions), loss (mean cross-entropy).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from atlas_cli.tasks import _rows
from atlas_cli.tasks._metrics import RunningLoss, macro_f1
from atlas_cli.tasks._texts import TextTask
from atlas_cli.tasks.contract import Better, ClassCounts, Feature, Form, Metric, Prediction, Row, Term


class _ClassMetric(Metric):
    """How often each class was a label, a prediction and both (a table of all pairs grows with C squared), and loss."""

    def __init__(self, classes: Sequence[str], loss: Callable[[Tensor, Tensor], tuple[Tensor, int]]) -> None:
        self.classes = classes
        self.hits_C, self.labels_C, self.predictions_C = torch.zeros(3, len(classes), dtype=torch.int64)
        self.loss = loss
        self.running = RunningLoss()

    def update(self, logits: Tensor, labels: Tensor, features: Sequence[Feature]) -> None:
        """Logits (B, C), labels (B,)."""
        labels = labels.to(logits.device)
        self.running.add(self.loss(logits, labels))
        labels_B, predictions_B = labels.cpu(), logits.argmax(-1).cpu()
        found = (labels_B[labels_B == predictions_B], labels_B, predictions_B)
        for count_C, classes in zip((self.hits_C, self.labels_C, self.predictions_C), found, strict=True):
            count_C += torch.bincount(classes, minlength=len(count_C))

    def compute(self) -> dict[str, float]:
        """``accuracy``, ``macro_f1``, ``loss``."""
        loss = self.running.mean()
        accuracy = self.hits_C.sum().item() / self.running.count
        return {
            "accuracy": accuracy,
            "macro_f1": macro_f1(self.hits_C, self.labels_C, self.predictions_C),
            "loss": loss,
        }

    def trials(self) -> dict[str, int]:
        """The accuracy is a share of examples."""
        return {"accuracy": self.running.count}

    def terms(self, part: Metric) -> dict[str, Term]:
        """Of accuracy and loss."""
        return {"accuracy": Term(self.hits_C.sum().item(), self.running.count), "loss": self.running.term()}

    def by_class(self) -> dict[str, ClassCounts]:
        """Of each class among labels or predictions."""
        counts = zip(self.classes, *(x.tolist() for x in (self.labels_C, self.predictions_C, self.hits_C)), strict=True)
        return {
            name: {"labels": labels, "predicted": predicted, "right": right}
            for name, labels, predicted, right in counts
            if labels or predicted
        }


class Task(TextTask):
    """Sequence classification: the label is a class."""

    forms: ClassVar[Mapping[str, Form]] = {"label": "class"}
    has_classes: ClassVar[bool] = True
    one_class: ClassVar[bool] = True
    primary_metric: ClassVar[str] = "accuracy"
    better: ClassVar[Mapping[str, Better]] = {"accuracy": "higher", "macro_f1": "higher", "loss": "lower"}
    prediction_fields: ClassVar[tuple[str, ...]] = ("label", "score")

    @classmethod
    def labels_in(cls, row: Row) -> list[str]:
        """The row's class name."""
        return [_rows.class_name(_rows.field(row, "label"), "label")]

    def _label(self, row: Row) -> int:
        return _rows.class_id(self.labels_in(row)[0], self.class_ids)

    def _outputs(self) -> int:
        return len(self.classes)

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Mean cross-entropy of (B, C) and (B,), and B."""
        return F.cross_entropy(logits.float(), labels), len(labels)

    def metric(self) -> Metric:
        """Accuracy, macro-F1 and loss over examples."""
        return _ClassMetric(self.classes, self.loss)

    def predictions(self, logits: Tensor, features: Sequence[Feature]) -> list[Prediction]:
        """The likeliest class and its probability."""
        scores_B, classes_B = logits.float().softmax(-1).max(-1)
        pairs = zip(classes_B.tolist(), scores_B.tolist(), strict=True)
        return [{"label": self.classes[number], "score": score} for number, score in pairs]
