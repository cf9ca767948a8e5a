"""One class for a text, or for a pair of texts.

Metrics: accuracy, macro_f1 (over classes that occur in labels or predictions), loss (mean cross-entropy). Where the
group's `metric` is one of them: matthews (Matthews' correlation, of any number of classes; 0 where all labels, or all
predictions, are one class) or f1 (of the second of two classes, as GLUE has it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from atlas_cli.errors import ConfigError
from atlas_cli.tasks import _rows
from atlas_cli.tasks._metrics import RunningLoss, macro_f1, matthews, occurring
from atlas_cli.tasks._texts import TextTask
from atlas_cli.tasks.contract import Better, ClassCounts, Feature, Form, Metric, Prediction, Row, Term


class _ClassMetric(Metric):
    """How often each class was a label, a prediction and both (a table of all pairs grows with C squared), and loss."""

    def __init__(
        self, classes: Sequence[str], loss: Callable[[Tensor, Tensor], tuple[Tensor, int]], asked: str
    ) -> None:
        self.classes = classes
        self.asked = asked  # the metric that the group is judged by
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
        """``accuracy``, ``macro_f1``, ``loss``; ``matthews`` and ``f1`` where they are asked for."""
        loss = self.running.mean()
        accuracy = self.hits_C.sum().item() / self.running.count
        figures = {
            "accuracy": accuracy,
            "macro_f1": macro_f1(self.hits_C, self.labels_C, self.predictions_C),
            "loss": loss,
        }
        if self.asked == "matthews":
            figures["matthews"] = matthews(self.hits_C, self.labels_C, self.predictions_C)
        if self.asked == "f1":
            figures["f1"] = 2 * self.hits_C[1].item() / max(self._second(), 1)
        return figures

    def _second(self) -> int:
        """How often the second class is a label, and is predicted."""
        return int(self.labels_C[1] + self.predictions_C[1])

    def trials(self) -> dict[str, int]:
        """The accuracy is a share of examples."""
        return {"accuracy": self.running.count}

    def terms(self, part: Metric) -> dict[str, Term]:
        """Of accuracy, loss and F1."""
        found = {"accuracy": Term(self.hits_C.sum().item(), self.running.count), "loss": self.running.term()}
        return found | ({"f1": Term(2 * self.hits_C[1].item(), self._second())} if self.asked == "f1" else {})

    def by_class(self) -> dict[str, ClassCounts]:
        """Of each class among labels or predictions."""
        return occurring(self.classes, self.labels_C, self.predictions_C, self.hits_C)


class Task(TextTask):
    """Sequence classification: the label is a class."""

    forms: ClassVar[Mapping[str, Form]] = {"label": "class"}
    has_classes: ClassVar[bool] = True
    one_class: ClassVar[bool] = True
    primary_metric: ClassVar[str] = "accuracy"
    better: ClassVar[Mapping[str, Better]] = {
        **dict.fromkeys(("accuracy", "macro_f1", "matthews", "f1"), "higher"),
        "loss": "lower",
    }
    prediction_fields: ClassVar[tuple[str, ...]] = ("label", "score", "scores")

    @classmethod
    def labels_in(cls, row: Row) -> list[str]:
        """The row's class name."""
        label = row.get("label")
        return [label] if type(label) is str and label else [_rows.class_name(_rows.field(row, "label"), "label")]

    def _label(self, row: Row) -> int:
        return _rows.class_id(self.labels_in(row)[0], self.class_ids)

    def _outputs(self) -> int:
        return len(self.classes)

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Mean cross-entropy of (B, C) and (B,), and B."""
        return F.cross_entropy(logits.float(), labels), len(labels)

    def metric(self) -> Metric:
        """Accuracy, macro-F1 and loss over examples, and what the group is judged by besides.

        Raises:
            ConfigError: an F1 of two classes is asked for, and there are others.
        """
        if self.primary_metric == "f1" and len(self.classes) != 2:
            raise ConfigError(
                f"metric f1 is of the second of two classes, and there are {len(self.classes)}; use macro_f1"
            )
        return _ClassMetric(self.classes, self.loss, self.primary_metric)

    def predictions(self, logits: Tensor, features: Sequence[Feature]) -> list[Prediction]:
        """The likeliest class, its probability, and that of every class, in the order of classes."""
        scores_BC = logits.float().softmax(-1)
        found = zip(scores_BC.argmax(-1).tolist(), scores_BC.tolist(), strict=True)
        return [{"label": self.classes[c], "score": scores[c], "scores": scores} for c, scores in found]
