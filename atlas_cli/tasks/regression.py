"""One number for a text, or for a pair of texts: similarity, a rating, a grade. Trained by the squared error.

Metrics: pearson and spearman (correlations of predictions and labels), rmse and mae (in units of the label), loss (mean
squared error). A correlation is not defined where all predictions, or all labels, are equal; it is given as 0 there:
such predictions say nothing of the labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from atlas_cli.double import double
from atlas_cli.errors import ConfigError
from atlas_cli.tasks import _rows
from atlas_cli.tasks._texts import TextTask
from atlas_cli.tasks.contract import Better, Feature, Form, Metric, Prediction, Row, Term


class _Errors(Metric):
    """All predictions and labels, 16 bytes an example: ranks need every one of them."""

    def __init__(self) -> None:
        self.predictions: list[Tensor] = []
        self.labels: list[Tensor] = []

    def update(self, logits: Tensor, labels: Tensor, features: Sequence[Feature]) -> None:
        """Logits (B, 1), labels (B,)."""
        self.predictions.append(double(logits.squeeze(-1)).cpu())
        self.labels.append(double(labels).cpu())

    def compute(self) -> dict[str, float]:
        """``pearson``, ``spearman``, ``rmse``, ``mae``, ``loss``."""
        if not self.labels:
            raise ConfigError("nothing to evaluate: the test part has no labels; check the data")
        predictions_N, labels_N = torch.cat(self.predictions), torch.cat(self.labels)
        errors_N = predictions_N - labels_N
        loss = errors_N.square().mean().item()
        return {
            "pearson": correlation(predictions_N, labels_N),
            "spearman": correlation(ranks(predictions_N), ranks(labels_N)),
            "rmse": math.sqrt(loss),
            "mae": errors_N.abs().mean().item(),
            "loss": loss,
        }

    def terms(self, part: Metric) -> dict[str, Term]:
        """Of the errors; correlations are of labels and predictions."""
        errors_N = torch.cat(self.predictions) - torch.cat(self.labels)
        squares = Term(errors_N.square().sum().item(), len(errors_N))
        means = Term(errors_N.abs().sum().item(), len(errors_N))
        return {"rmse": squares._replace(then="sqrt"), "mae": means, "loss": squares}


class Task(TextTask):
    """Regression: the label is a number."""

    forms: ClassVar[Mapping[str, Form]] = {"label": "number"}
    label_dtype: ClassVar[torch.dtype] = torch.float32
    primary_metric: ClassVar[str] = "pearson"
    better: ClassVar[Mapping[str, Better]] = {
        **dict.fromkeys(("pearson", "spearman"), "higher"),
        **dict.fromkeys(("rmse", "mae", "loss"), "lower"),
    }
    prediction_fields: ClassVar[tuple[str, ...]] = ("label",)

    def _label(self, row: Row) -> float:
        return float(_rows.field(row, "label"))

    def _outputs(self) -> int:
        return 1

    def label_summary(self, rows: Sequence[Row]) -> str:
        """Their range and mean."""
        labels = [self._label(row) for row in rows]
        return f"{min(labels):g} to {max(labels):g}, mean {sum(labels) / len(labels):.3g}" if labels else ""

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Mean squared error of (B, 1) and (B,), and B."""
        return F.mse_loss(logits.squeeze(-1).float(), labels.float()), len(labels)

    def metric(self) -> Metric:
        """Correlations and errors over examples."""
        return _Errors()

    def predictions(self, logits: Tensor, features: Sequence[Feature]) -> list[Prediction]:
        """The number that is predicted."""
        return [{"label": label} for label in logits.squeeze(-1).float().tolist()]


def correlation(x_N: Tensor, y_N: Tensor) -> float:
    """Pearson's correlation; 0 where it is not defined, since all of one are equal."""
    if bool((x_N == x_N[0]).all()) or bool((y_N == y_N[0]).all()):
        return 0.0
    x_N, y_N = (each - each.mean() for each in (x_N, y_N))
    return (x_N @ y_N / (x_N.norm() * y_N.norm())).clamp(-1, 1).item()


def ranks(x_N: Tensor) -> Tensor:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place_N, counts = x_N.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2)[place_N].double()
