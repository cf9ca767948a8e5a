"""What a task type must say. One file a task in this folder; its class is named ``Task``.

Shape suffixes: B batch, T tokens, D hidden size, C classes, V vocabulary. Labels to ignore are -100.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypedDict, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlas_cli.errors import ConfigError

Row = Mapping[str, Any]
IGNORE = -100
Better = Literal["higher", "lower"]


class Feature(TypedDict, total=False):
    """One tokenized example, or a window of one.

    ``input_ids`` and ``labels`` always; ``meta`` holds what only the metric needs (never sent). ``row`` says which row
    of its part (training or test rows of the group) it was made of: windows of one example share it.
    """

    input_ids: list[int]
    token_type_ids: list[int]
    labels: int | list[int]
    truncated: bool
    meta: dict[str, Any]
    row: int


def count_examples(features: Sequence[Feature]) -> int:
    """How many examples features were made of: all windows of one row are one; a feature of no row is one by itself."""
    return len({feature.get("row", -1 - i) for i, feature in enumerate(features)})


def example_numbers(features: Sequence[Feature]) -> list[int]:
    """Of which example each feature is, numbered by where they first come; as ``count_examples`` counts them."""
    numbers: dict[int, int] = {}
    return [numbers.setdefault(f.get("row", -1 - i), len(numbers)) for i, f in enumerate(features)]


class Metric(ABC):
    """Accumulates over batches of a test part, then gives the field's figures; padding never counts."""

    @abstractmethod
    def update(self, logits: Tensor, labels: Tensor, features: Sequence[Feature]) -> None:
        """Add one batch: logits as the head gives them, labels as ``BaseTask.label_tensor`` gives them."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The figures by the field's names, e.g. ``{"accuracy": 0.9, "macro_f1": 0.88}``."""


class BaseTask(ABC):
    """A task type: how rows become tokens, what the head computes, what loss and metrics are.

    Args:
        classes: class names in the order of their ids; empty for tasks without classes.
        pooling: "mean", "first" or "last": which tokens a sequence head reads; ignored by token heads.

    ``better`` says for every figure of ``metric`` whether a higher or a lower value is better; runs are judged by
    ``primary_metric``.
    """

    fields: ClassVar[tuple[str, ...]]
    optional_fields: ClassVar[tuple[str, ...]] = ()
    causal_only: ClassVar[bool] = False
    has_classes: ClassVar[bool] = False
    primary_metric: ClassVar[str]
    better: ClassVar[Mapping[str, Better]] = {}
    keep_end: bool = False  # which part of a text that is too long ``encode`` keeps

    def __init_subclass__(cls) -> None:
        """Refuse a task that does not say which way its primary metric is better: it would be guessed."""
        primary = getattr(cls, "primary_metric", None)
        if primary is not None and cls.better.get(primary) not in get_args(Better):
            raise ConfigError(
                f"{cls.__module__}: {cls.__name__} does not say whether a higher or a lower {primary} is better; add"
                f' better = {{"{primary}": "higher"}} or "lower", with a word for every figure of its metric'
            )

    def __init__(self, classes: Sequence[str] = (), pooling: str = "mean") -> None:
        self.classes = list(classes)
        self.class_ids = {name: i for i, name in enumerate(self.classes)}
        self.pooling = pooling

    @classmethod
    def labels_in(cls, row: Row) -> list[str]:
        """Class names that a row carries (several for token tags); empty where there are no classes."""
        return []

    @classmethod  # noqa: B027 most tasks have nothing to add
    def check(cls, row: Row) -> None:
        """Look at what fields must be to each other, before any is encoded.

        Raises:
            ConfigError: what does not fit; the reader of the data adds which row it is.
        """

    @abstractmethod
    def encode(self, row: Row, tokenizer: Any, max_length: int) -> list[Feature]:
        """Tokenize one row into one feature (several when a long context is windowed).

        A feature that lacks something of its row is marked ``truncated``; where nothing to learn is left there is none.

        Raises:
            ConfigError: a label outside the classes.
        """

    @abstractmethod
    def label_tensor(self, features: Sequence[Feature], length: int) -> Tensor:
        """Labels of a batch padded to ``length`` tokens: (B,) or (B, T) or (B, 2), int64, -100 where ignored."""

    @abstractmethod
    def build_head(self, hidden_size: int, lm_head: nn.Module | None) -> nn.Module:
        """A head with ``forward(hidden_BTD, mask_BT) -> logits``.

        ``lm_head`` is the frozen output embedding of a causal model.
        """

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Mean loss over what counts, and how many count: examples, or label tokens."""

    def reads(self, labels: Tensor, mask_BT: Tensor) -> Tensor | None:
        """The tokens whose hidden states the loss depends on, (B, T) bool; None: all."""
        targets = self.targets(labels)
        return None if targets is None else targets != IGNORE

    def targets(self, labels: Tensor) -> Tensor | None:
        """Of a head that reads each token by itself: what each token must give, (B, T), -100 where nothing counts.

        None: the head reads a sequence as a whole.
        """
        return None

    def loss_at(self, logits_NC: Tensor, targets_N: Tensor) -> tuple[Tensor, int]:
        """``loss`` from the tokens that count alone, and N (0: a loss of 0)."""
        count = len(targets_N)
        return F.cross_entropy(logits_NC.float(), targets_N, reduction="sum") / max(count, 1), count

    @abstractmethod
    def metric(self) -> Metric:
        """A fresh accumulator."""

    def scores(self, metric: Metric) -> dict[str, float]:
        """The figures of an accumulator.

        Raises:
            ConfigError: one whose direction the task does not declare, or no primary one.
        """
        figures = metric.compute()
        for name in (self.primary_metric, *figures):
            if name not in figures or name not in self.better:
                what = "declares no direction for" if name in figures else "does not compute"
                raise ConfigError(f"{type(self).__module__}: Task {what} the metric {name} (primary_metric, better)")
        return figures


def pooled_token(pooling: str, mask_BT: Tensor) -> Tensor | None:
    """The one token of each sequence that pooling reads, (B, T) bool; None where it reads all."""
    if pooling == "mean":
        return None
    return F.one_hot(_end(pooling, mask_BT), mask_BT.shape[1]).bool()


def _end(pooling: str, mask_BT: Tensor) -> Tensor:
    """The place of the "first" or "last" real token of each sequence, (B,), on whichever side it is padded."""
    real_BT = mask_BT.long()
    return real_BT.argmax(1) if pooling == "first" else mask_BT.shape[1] - 1 - real_BT.flip(1).argmax(1)


class SequencePooling(nn.Module):
    """(B, T, D) and mask (B, T) to (B, D): mean over real tokens, the first or the last of them."""

    def __init__(self, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """One vector a sequence (B, D)."""
        if self.pooling != "mean":
            read_B = _end(self.pooling, mask_BT.to(hidden_BTD.device))
            return hidden_BTD[torch.arange(len(hidden_BTD), device=hidden_BTD.device), read_B]
        weights_BT1 = mask_BT.to(hidden_BTD.dtype).unsqueeze(-1)
        return (hidden_BTD * weights_BT1).sum(1) / weights_BT1.sum(1)
