"""Any number of classes for a text, or for a pair of texts, or none: a yes or no for each class.

In JSONL a label is a list of classes; in a cell of CSV they stand between bars (`art|place`; `label_separator` says
otherwise), and an empty cell is a text of no class. Or each class has a column of 0 and 1, and `label` lists these
columns: `label: [toxic, insult]`. Trained by binary cross-entropy, the mean over texts and classes. A class is
predicted where its probability is above 0.5.

Metrics, as scikit-learn's: micro_f1 and macro_f1 (over all classes; 0 for one that neither occurs nor is predicted),
subset_accuracy (texts all of whose classes are right), lrap (label ranking average precision: of the classes ranked as
high as a right one, the share that is right; 1 for a text without any), loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from atlas_cli.double import double
from atlas_cli.tasks import _rows
from atlas_cli.tasks._metrics import RunningLoss, occurring
from atlas_cli.tasks._texts import TextTask
from atlas_cli.tasks.contract import Better, ClassCounts, Feature, Form, Metric, Prediction, Row, Term


class _SetMetric(Metric):
    """How often each class was a label, a prediction and both, and sums over texts."""

    def __init__(self, classes: Sequence[str], loss: Callable[[Tensor, Tensor], tuple[Tensor, int]]) -> None:
        self.classes = classes
        self.loss = loss
        self.running = RunningLoss()
        self.hits_C, self.labels_C, self.predictions_C = torch.zeros(3, len(classes), dtype=torch.int64)
        self.exact, self.precision = 0, 0.0

    def update(self, logits: Tensor, labels: Tensor, features: Sequence[Feature]) -> None:
        """Logits and labels (B, C)."""
        labels = labels.to(logits.device)
        self.running.add(self.loss(logits, labels))
        true_BC, predicted_BC = (each.cpu() for each in (labels > 0, logits > 0))
        for count_C, found_BC in (
            (self.hits_C, true_BC & predicted_BC),
            (self.labels_C, true_BC),
            (self.predictions_C, predicted_BC),
        ):
            count_C += found_BC.sum(0)
        self.exact += int((true_BC == predicted_BC).all(1).sum())
        self.precision += ranking_precision(double(logits).cpu(), true_BC).sum().item()

    def compute(self) -> dict[str, float]:
        """``micro_f1``, ``macro_f1``, ``subset_accuracy``, ``lrap``, ``loss``."""
        loss, count = self.running.mean(), self.running.count
        occurrences_C = self.labels_C + self.predictions_C
        return {
            "micro_f1": 2 * self.hits_C.sum().item() / max(occurrences_C.sum().item(), 1),
            "macro_f1": (2 * self.hits_C.double() / occurrences_C.clamp(min=1)).mean().item(),
            "subset_accuracy": self.exact / count,
            "lrap": self.precision / count,
            "loss": loss,
        }

    def trials(self) -> dict[str, int]:
        """The subset accuracy is a share of texts."""
        return {"subset_accuracy": self.running.count}

    def terms(self, part: Metric) -> dict[str, Term]:
        """Means over texts, and the F1 over all classes at once, a quotient of counts."""
        count = self.running.count
        micro = Term(2 * self.hits_C.sum().item(), (self.labels_C + self.predictions_C).sum().item())
        shares = {"subset_accuracy": Term(self.exact, count), "lrap": Term(self.precision, count)}
        return {"micro_f1": micro, **shares, "loss": self.running.term()}

    def by_class(self) -> dict[str, ClassCounts]:
        """Of each class among labels or predictions."""
        return occurring(self.classes, self.labels_C, self.predictions_C, self.hits_C)


class Task(TextTask):
    """Multi-label classification: the label is a list of classes, which may be empty."""

    forms: ClassVar[Mapping[str, Form]] = {"label": "set"}
    may_be_empty: ClassVar[tuple[str, ...]] = ("label",)
    has_classes: ClassVar[bool] = True
    label_dtype: ClassVar[torch.dtype] = torch.float32
    primary_metric: ClassVar[str] = "micro_f1"
    better: ClassVar[Mapping[str, Better]] = {
        **dict.fromkeys(("micro_f1", "macro_f1", "subset_accuracy", "lrap"), "higher"),
        "loss": "lower",
    }
    prediction_fields: ClassVar[tuple[str, ...]] = ("labels", "scores")

    @classmethod
    def labels_in(cls, row: Row) -> list[str]:
        """The classes of the row."""
        return [_rows.class_name(name, "label") for name in _rows.field(row, "label")]

    def _label(self, row: Row) -> list[int]:
        return sorted(_rows.class_id(name, self.class_ids) for name in set(self.labels_in(row)))

    def _outputs(self) -> int:
        return len(self.classes)

    def label_tensor(self, features: Sequence[Feature], length: int) -> Tensor:
        """1 for the classes of each text, else 0: (B, C), float32."""
        labels_BC = self.blank_labels(len(features), length)
        for row, feature in enumerate(features):
            labels_BC[row, feature["labels"]] = 1  # type: ignore[index]
        return labels_BC

    def label_shape(self, batch: int, tokens: int) -> tuple[int, ...]:
        """One number for each class of a text."""
        return (batch, len(self.classes))

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Mean binary cross-entropy of (B, C) and (B, C), and B."""
        return F.binary_cross_entropy_with_logits(logits.float(), labels), len(labels)

    def metric(self) -> Metric:
        """F1 over classes, and shares of texts."""
        return _SetMetric(self.classes, self.loss)

    def predictions(self, logits: Tensor, features: Sequence[Feature]) -> list[Prediction]:
        """The classes whose probability is above 0.5, and the probability of every class, in the order of classes."""
        found = zip((logits > 0).tolist(), logits.float().sigmoid().tolist(), strict=True)
        return [
            {"labels": [name for name, yes in zip(self.classes, said, strict=True) if yes], "scores": scores}
            for said, scores in found
        ]

    def label_text(self, feature: Feature) -> str:
        """The classes of one text."""
        labels = feature["labels"]
        assert isinstance(labels, list)
        return f"-> {', '.join(self.classes[int(label)] for label in labels) or '(none)'}"


def ranking_precision(scores_BC: Tensor, true_BC: Tensor) -> Tensor:
    """For each text the mean, over its right classes, of the share of right ones among those of no lower score, (B,).

    1 where no class is right, or all are; classes of one score share the lowest rank, as in scikit-learn.
    """
    right_BC = scores_BC.masked_fill(~true_BC, float("-inf"))
    classes = scores_BC.shape[1]
    among_right_BC, among_all_BC = (
        classes - torch.searchsorted(scores.sort(dim=1).values, scores_BC) for scores in (right_BC, scores_BC)
    )
    shares_BC = (among_right_BC.double() / among_all_BC).masked_fill(~true_BC, 0)
    counts_B = true_BC.sum(1)
    return torch.where(counts_B > 0, shares_BC.sum(1) / counts_B.clamp(min=1), 1.0)
