"""Causal language modelling: predict each next token of a text.

Metrics: perplexity = exp(loss) (lower is better), loss (mean negative log-likelihood a token, in nats), token_accuracy.
Each text is followed by the tokenizer's end token, where it has one, which is predicted and counted, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlas_cli.errors import ConfigError
from atlas_cli.tasks import _rows
from atlas_cli.tasks._metrics import RunningLoss
from atlas_cli.tasks._turns import with_end, without_end
from atlas_cli.tasks.contract import IGNORE, BaseTask, Better, Feature, Metric, Prediction, Row, Term

_HUGE = 700.0  # nats, whose exponential is near the largest float


class _Head(nn.Module):
    """The model's own frozen output embedding.

    It is kept out of this module's parameters and state: it belongs to the shared base (often tied to the input
    embedding), so a head has nothing to train, save or send, and ``to(device)`` is the base's business.
    """

    def __init__(self, lm_head: nn.Module) -> None:
        super().__init__()
        self._lm_head = (lm_head,)

    def __deepcopy__(self, memo: dict[int, object]) -> _Head:
        return _Head(self._lm_head[0])

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        lm_head = self._lm_head[0]
        return lm_head(hidden_BTD.to(next(lm_head.parameters()).dtype))


class _PerplexityMetric(Metric):
    """Sums over label tokens; no logits are kept."""

    def __init__(self, loss: Callable[[Tensor, Tensor], tuple[Tensor, int]]) -> None:
        self.loss = loss
        self.running = RunningLoss()
        self.correct = 0

    def update(self, logits: Tensor, labels: Tensor, features: Sequence[Feature]) -> None:
        """Logits (B, T, V), labels (B, T), not yet shifted."""
        labels = labels.to(logits.device)
        self.running.add(self.loss(logits, labels))
        self.correct += int((logits.argmax(-1) == next_tokens(labels)).sum())

    def compute(self) -> dict[str, float]:
        """``perplexity`` (infinite beyond the range of a float), ``loss``, ``token_accuracy``."""
        loss = self.running.mean()
        perplexity = math.exp(loss) if loss < _HUGE else math.inf
        return {"perplexity": perplexity, "loss": loss, "token_accuracy": self.correct / self.running.count}

    def terms(self, part: Metric) -> dict[str, Term]:
        """All are quotients over label tokens."""
        loss = self.running.term()
        right = Term(self.correct, self.running.count)
        return {"perplexity": loss._replace(then="exp"), "loss": loss, "token_accuracy": right}


class Task(BaseTask):
    """Causal language modelling: column text."""

    fields: ClassVar[tuple[str, ...]] = ("text",)
    prompt_fields: ClassVar[tuple[str, ...]] = ("text",)
    causal_only: ClassVar[bool] = True
    primary_metric: ClassVar[str] = "perplexity"
    better: ClassVar[Mapping[str, Better]] = {"perplexity": "lower", "loss": "lower", "token_accuracy": "higher"}
    prediction_fields: ClassVar[tuple[str, ...]] = ("log_likelihood", "perplexity", "loss", "tokens")

    def encode(self, row: Row, tokenizer: Any, max_length: int) -> list[Feature]:
        """One feature, with the tokenizer's end token, cut at ``max_length``; none where no token has a successor.

        Raises:
            ConfigError: text that is missing, not a string, or gives no token.
        """
        text = _rows.enough(_rows.text(row, "text"), tokenizer, max_length, self.keep_end)
        ids = tokenizer(text, verbose=False)["input_ids"]
        if not ids:
            raise ConfigError("empty text: field 'text' gives no token; drop such rows")
        ids = with_end(ids, tokenizer)
        return self._features(ids, ids, max_length, tokenizer.bos_token_id)

    def _features(self, ids: list[int], labels: list[int], max_length: int, begin: int | None = None) -> list[Feature]:
        """Cut to ``max_length``; no feature if nothing is left to predict.

        Where the end is kept, so is the token ``begin`` at the start.
        """
        truncated = len(ids) > max_length
        if truncated and self.keep_end:
            first = int(ids[0] == begin)
            ids, labels = (each[:first] + each[first - max_length :] for each in (ids, labels))
        ids, labels = ids[:max_length], labels[:max_length]
        kept = Feature(input_ids=ids, labels=labels, truncated=truncated)
        return [kept] if any(label != IGNORE for label in labels[1:]) else []

    def label_tensor(self, features: Sequence[Feature], length: int) -> Tensor:
        """Token ids (B, T), int64, at their own positions (``loss`` shifts them); -100 on prompts and padding."""
        rows = [feature["labels"] + [IGNORE] * (length - len(feature["labels"])) for feature in features]  # type: ignore
        return torch.tensor(rows, dtype=torch.int64)

    def label_shape(self, batch: int, tokens: int) -> tuple[int, ...]:
        """One a token."""
        return (batch, tokens)

    def build_head(self, hidden_size: int, lm_head: nn.Module | None) -> nn.Module:
        """The frozen output embedding of the model; no parameters of its own.

        Raises:
            ConfigError: a model without one.
        """
        if lm_head is None:
            raise ConfigError("this task needs a causal model (GPT-2, LLaMA, ...); the model has no output embedding")
        return _Head(lm_head)

    def targets(self, labels: Tensor) -> Tensor:
        """The next label of each token."""
        return next_tokens(labels)

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Mean cross-entropy of (B, T, V) with the next label of (B, T), and how many labels count (0: a loss of 0)."""
        targets_BT = next_tokens(labels)
        count = int((targets_BT != IGNORE).sum())
        total = F.cross_entropy(
            logits.flatten(0, 1).float(), targets_BT.flatten(), ignore_index=IGNORE, reduction="sum"
        )
        return total / max(count, 1), count

    def metric(self) -> Metric:
        """Perplexity, loss and accuracy over label tokens."""
        return _PerplexityMetric(self.loss)

    def predictions(self, logits: Tensor, features: Sequence[Feature]) -> list[Prediction]:
        """How well each text is told: in nats the log-likelihood of its tokens and their mean loss, perplexity (None
        beyond the range of a float), and how many tokens were predicted."""
        targets_BT = next_tokens(self.label_tensor(features, logits.shape[1])).to(logits.device)
        losses = F.cross_entropy(logits.flatten(0, 1).float(), targets_BT.flatten(), reduction="none")
        counts_B = (targets_BT != IGNORE).sum(1)
        means_B = losses.view_as(targets_BT).sum(1) / counts_B.clamp(min=1)
        pairs = zip(means_B.tolist(), counts_B.tolist(), strict=True)
        return [
            {
                "log_likelihood": -loss * count,
                "perplexity": math.exp(loss) if loss < _HUGE else None,
                "loss": loss,
                "tokens": count,
            }
            for loss, count in pairs
        ]

    def prompt(self, row: Row, tokenizer: Any) -> list[int]:
        """The text itself, which goes on."""
        return without_end(tokenizer(_rows.text(row, "text"), verbose=False)["input_ids"], tokenizer)


def next_tokens(labels_BT: Tensor) -> Tensor:
    """Labels moved one to the left, -100 at the end: shifting the logits, V times larger, would copy them."""
    return F.pad(labels_BT[:, 1:], (0, 1), value=IGNORE)
