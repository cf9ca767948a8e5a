"""One class for a text, or for a pair of texts.

Metrics: accuracy, macro_f1 (over classes that occur in labels or predictions), loss (mean cross-entropy).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlas_cli.errors import ConfigError
from atlas_cli.tasks import _rows
from atlas_cli.tasks._heads import Classifier
from atlas_cli.tasks._metrics import RunningLoss, macro_f1
from atlas_cli.tasks.contract import BaseTask, Better, Feature, Metric, Row, SequencePooling, pooled_token


class _Head(nn.Module):
    """Pooled hidden states to class logits, in float32."""

    def __init__(self, hidden_size: int, classes: int, pooling: str) -> None:
        super().__init__()
        self.pool = SequencePooling(pooling)
        self.classifier = Classifier(hidden_size, classes)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Logits (B, C)."""
        # cast before pooling: a bfloat16 sum over tokens is inexact from 256 tokens on
        return self.classifier(self.pool(hidden_BTD.to(self.classifier.weight.dtype), mask_BT))


class _ClassMetric(Metric):
    """How often each class was a label, a prediction and both (a table of all pairs grows with C squared), and loss."""

    def __init__(self, classes: int, loss: Callable[[Tensor, Tensor], tuple[Tensor, int]]) -> None:
        self.hits_C, self.labels_C, self.predictions_C = torch.zeros(3, classes, dtype=torch.int64)
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


class Task(BaseTask):
    """Sequence classification: columns text, label and, where given, text_pair."""

    fields: ClassVar[tuple[str, ...]] = ("text", "label")
    optional_fields: ClassVar[tuple[str, ...]] = ("text_pair",)
    has_classes: ClassVar[bool] = True
    primary_metric: ClassVar[str] = "accuracy"
    better: ClassVar[Mapping[str, Better]] = {"accuracy": "higher", "macro_f1": "higher", "loss": "lower"}

    @classmethod
    def labels_in(cls, row: Row) -> list[str]:
        """The row's class name."""
        return [_rows.class_name(_rows.field(row, "label"), "label")]

    def encode(self, row: Row, tokenizer: Any, max_length: int) -> list[Feature]:
        """One feature; text beyond ``max_length`` is cut (of a pair, the longer text first) and flagged.

        Raises:
            ConfigError: a label outside the classes, or text that is missing, not a string, or gives no token.
        """
        texts = [_rows.text(row, "text")]
        if "text_pair" in row:
            texts.append(_rows.text(row, "text_pair"))
        texts = [_rows.enough(text, tokenizer, max_length, self.keep_end) for text in texts]
        encoded = tokenizer(*texts, verbose=False)
        if len(encoded["input_ids"]) <= tokenizer.num_special_tokens_to_add(pair=len(texts) > 1):
            raise ConfigError("empty text: field 'text' gives no token; drop such rows")
        truncated = len(encoded["input_ids"]) > max_length
        if truncated:
            with _rows.cutting(tokenizer, self.keep_end):
                encoded = tokenizer(*texts, truncation=True, max_length=max_length)
        label = _rows.class_id(self.labels_in(row)[0], self.class_ids)
        feature = Feature(input_ids=encoded["input_ids"], labels=label, truncated=truncated)
        if any(encoded.get("token_type_ids", ())):
            feature["token_type_ids"] = encoded["token_type_ids"]
        return [feature]

    def label_tensor(self, features: Sequence[Feature], length: int) -> Tensor:
        """Class ids (B,), int64."""
        return torch.tensor([feature["labels"] for feature in features], dtype=torch.int64)

    def build_head(self, hidden_size: int, lm_head: nn.Module | None) -> nn.Module:
        """Pooling and one linear layer; D * C + C parameters."""
        return _Head(hidden_size, len(self.classes), self.pooling)

    def reads(self, labels: Tensor, mask_BT: Tensor) -> Tensor | None:
        """What is pooled."""
        return pooled_token(self.pooling, mask_BT)

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Mean cross-entropy of (B, C) and (B,), and B."""
        return F.cross_entropy(logits.float(), labels), len(labels)

    def metric(self) -> Metric:
        """Accuracy, macro-F1 and loss over examples."""
        return _ClassMetric(len(self.classes), self.loss)
