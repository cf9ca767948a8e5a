"""What a task type must say. One file a task in this folder; its class is named ``Task``.

A task declares its fields, what its labels are and which way each figure of its metric is better, and fills the hooks
that have no default; what it leaves out works as ``BaseTask`` says. Names of its own begin with an underscore: any
other name that ``BaseTask`` does not have is taken for a misspelt one, and refused when the task is loaded.

Shape suffixes: B batch, T tokens, D hidden size, C classes, V vocabulary. Labels to ignore are -100.
"""

from __future__ import annotations

import inspect
import math
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlas_cli.errors import ConfigError, PluginError
from atlas_cli.plugins import file_of
from atlas_cli.printable import on_one_line
from atlas_cli.suggest import did_you_mean

Row = Mapping[str, Any]
Prediction = dict[str, Any]
Better = Literal["higher", "lower"]
Form = Literal["text", "number", "class", "words", "classes", "set", "any"]

IGNORE = -100
_COUNTED_AT_ONCE = 256  # features whose label tokens are counted together
_SHOWN_CLASSES = 6


class Feature(TypedDict, total=False):
    """One tokenized example, or a window of one.

    ``input_ids`` and ``labels`` always; ``meta`` holds what only the metric needs (never sent). ``row`` says which row
    of its part (training or test rows of the group) it was made of: windows of one example share it. ``original_ids``
    are there where a privacy mechanism put other tokens in their place.
    """

    input_ids: list[int]
    original_ids: list[int]
    token_type_ids: list[int]
    labels: int | float | list[int] | list[float]
    truncated: bool
    meta: dict[str, Any]
    row: int


def original_ids(feature: Feature) -> list[int]:
    """The tokens of the text, whether or not a privacy mechanism replaced them."""
    return feature.get("original_ids", feature["input_ids"])


def with_original_ids(feature: Feature) -> Feature:
    """The feature as it was before a privacy mechanism replaced tokens."""
    return Feature(**{**feature, "input_ids": original_ids(feature)})


def count_examples(features: Sequence[Feature]) -> int:
    """How many examples features were made of: all windows of one row are one; a feature of no row is one by itself."""
    return len({f.get("row", -1 - i) for i, f in enumerate(features)}) if len(features) > 1 else len(features)


def example_numbers(features: Sequence[Feature]) -> list[int]:
    """Of which example each feature is, numbered by where they first come; as ``count_examples`` counts them."""
    numbers: dict[int, int] = {}
    return [numbers.setdefault(f.get("row", -1 - i), len(numbers)) for i, f in enumerate(features)]


class ClassCounts(TypedDict):
    """How often a class was a label of the test part, was predicted, and was both at once."""

    labels: int
    predicted: int
    right: int


class Term(NamedTuple):
    """What some examples add to a figure that is a sum over examples divided by another.

    Attributes:
        value, weight: what they add to the first sum, and to the second.
        then: what the figure is of the quotient: "exp" of a perplexity, "sqrt" of a root mean square; None: itself.
    """

    value: float
    weight: float = 1.0
    then: Literal["exp", "sqrt"] | None = None


class Metric(ABC):
    """Accumulates over batches of a test part, then gives the field's figures; padding never counts.

    Attributes:
        diverged: whether the model gave values that are not finite; then figures need be no numbers.
    """

    diverged: bool = False

    @abstractmethod
    def update(self, logits: Tensor, labels: Tensor, features: Sequence[Feature]) -> None:
        """Add one batch: logits as the head gives them, labels as ``BaseTask.label_tensor`` gives them."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The figures by the field's names, e.g. ``{"accuracy": 0.9, "macro_f1": 0.88}``."""

    def trials(self) -> dict[str, int]:
        """Of how many cases a figure is the share, for those that are a share of cases which do not depend on each
        other: ``{"accuracy": 400}``. The report gives such figures an interval."""
        return {}

    def terms(self, part: Self) -> dict[str, Term]:
        """What was added so far adds to the figures that are quotients of sums; ``part`` has all of the test part.

        ``atlas evaluate`` asks an accumulator of each example alone, and resamples the terms for intervals and paired
        tests. Over all examples they must give the figure. Other figures are left out.
        """
        return {}

    def by_class(self) -> dict[str, ClassCounts]:
        """Counts of every class that occurs, by its name; empty for a task without classes."""
        return {}


class BaseTask(ABC):
    """A task type: how rows become tokens, what the head computes, what loss and metrics are.

    Args:
        classes: class names in the order of their ids; empty for tasks without classes.
        pooling: "mean", "first" or "last": which tokens a sequence head reads; ignored by token heads.

    Attributes:
        fields: what a row must have; ``optional_fields``: what it may have besides.
        label_fields: those of ``fields`` that rows to predict on need not have.
        other_names: columns that a field is read from where none has its own name, likeliest first.
        may_be_empty: fields whose list may have nothing in it, as of a text with none of several labels; others are
            refused where they are empty, by row and column.
        forms: what fields that are not text hold: a "number" (finite, as a float), a "class" (by its name), lists of
            "words" or "classes" (one a word), a "set" of classes, or "any", which ``check`` looks at.
        causal_only: needs a decoder.
        has_classes: labels are class numbers; ``classes`` are those of the config or of the data.
        one_class: each row is of exactly one class. Only then can rows be dealt out by class, be held out with equal
            shares of each, or have their labels randomised; other tasks are dealt and held out by rows alone.
        together: the loss holds all features of a row against each other, so that they are always in one batch.
        label_dtype: of what ``label_tensor`` gives; its shape is ``label_shape``.
        primary_metric: the figure that runs are judged by.
        better: of every figure of ``metric``, whether a higher or a lower value is better.
        prediction_fields: names in each prediction, in the order of columns.
        prompt_fields: the fields of a row that text is generated from; none: the task generates nothing.
        keep_end: which part of a text that is too long ``encode`` keeps.
    """

    fields: ClassVar[tuple[str, ...]]
    optional_fields: ClassVar[tuple[str, ...]] = ()
    label_fields: ClassVar[tuple[str, ...]] = ()
    other_names: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    may_be_empty: ClassVar[tuple[str, ...]] = ()
    forms: ClassVar[Mapping[str, Form]] = {}
    causal_only: ClassVar[bool] = False
    has_classes: ClassVar[bool] = False
    one_class: ClassVar[bool] = False
    together: ClassVar[bool] = False
    label_dtype: ClassVar[torch.dtype] = torch.int64
    primary_metric: ClassVar[str]
    better: ClassVar[Mapping[str, Better]]
    prediction_fields: ClassVar[tuple[str, ...]]
    prompt_fields: ClassVar[tuple[str, ...]] = ()
    keep_end: bool = False

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

    def encode_all(self, rows: Sequence[Row], tokenizer: Any, max_length: int) -> list[list[Feature]]:
        """``encode`` of each row, with its errors; a task may tokenize many rows at once in less time."""
        return [self.encode(row, tokenizer, max_length) for row in rows]

    @abstractmethod
    def label_tensor(self, features: Sequence[Feature], length: int) -> Tensor:
        """Labels of a batch padded to ``length`` tokens: ``label_shape``, ``label_dtype``, -100 where ignored."""

    @property
    def labels_a_token(self) -> bool:
        """Whether every token has a label, so that labels are padded as texts are."""
        return self.label_shape(1, 2) != self.label_shape(1, 3)

    def label_shape(self, batch: int, tokens: int) -> tuple[int, ...]:
        """Shape of the labels of a batch: one an example unless a task says otherwise."""
        return (batch,)

    def blank_labels(self, batch: int, tokens: int) -> Tensor:
        """Zeros that are as large as the labels of a batch, to plan and measure with."""
        return torch.zeros(self.label_shape(batch, tokens), dtype=self.label_dtype)

    def blank_labels_of_texts(self, lengths: Sequence[int]) -> Tensor:
        """Zeros that are as large as the labels of texts of such lengths, one after another without padding."""
        in_a_row = (1, sum(lengths)) if self.labels_a_token else (len(lengths), max(lengths, default=0))
        return self.blank_labels(*in_a_row)

    @abstractmethod
    def build_head(self, hidden_size: int, lm_head: nn.Module | None) -> nn.Module:
        """A head with ``forward(hidden_BTD, mask_BT) -> logits``.

        ``lm_head`` is the frozen output embedding of a causal model.
        """

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Mean loss over what counts, and how many count: examples, or label tokens.

        Where labels are no whole numbers, plans of memory run it (or ``loss_at``, where there are ``targets``) on
        tensors without values.
        """

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

    def weight(self, features: Sequence[Feature]) -> float:
        """How much a client with these examples weighs when adapters are merged by ``aggregation.weights: examples``.

        Label tokens where each token has a target of its own, else examples, however many windows one is read in.
        """
        if self.targets(self.label_tensor(features[:1], len(features[0]["input_ids"]))) is None:
            return float(count_examples(features))
        parts = (features[i : i + _COUNTED_AT_ONCE] for i in range(0, len(features), _COUNTED_AT_ONCE))
        targets = (self.targets(self.label_tensor(part, max(len(f["input_ids"]) for f in part))) for part in parts)
        return float(sum(int((each != IGNORE).sum()) for each in targets if each is not None))

    def label_text(self, feature: Feature) -> str:
        """The label of one example, for people who look at their data."""
        labels = feature["labels"]
        if isinstance(labels, list):
            return f"({sum(1 for label in labels if label != IGNORE)} labels)"
        return f"-> {self.classes[int(labels)] if self.has_classes else f'{labels:g}'}"

    def label_summary(self, rows: Sequence[Row]) -> str:
        """The labels of a client's rows in a few words: the share of every class, largest first; tags by occurrence."""
        counts = Counter(label for row in rows for label in self.labels_in(row))
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        shown = [f"{on_one_line(label)} {count / counts.total():.0%}" for label, count in ordered[:_SHOWN_CLASSES]]
        more = len(ordered) - _SHOWN_CLASSES
        return ", ".join(shown) + (f", {more} more" if more > 0 else "")

    @abstractmethod
    def metric(self) -> Metric:
        """A fresh accumulator."""

    @abstractmethod
    def predictions(self, logits: Tensor, features: Sequence[Feature]) -> list[Prediction]:
        """What a trained model says of each feature of a batch, in their order: ``prediction_fields`` and their values.

        Values are text, finite numbers, None, or lists of them. Labels may be looked at only where they are the text.
        """

    def with_blank_labels(self, row: Row) -> Row:
        """The row with something in each of ``label_fields`` that ``encode`` takes: predictions do not depend on it."""
        blank: dict[Form, Any] = {"class": next(iter(self.classes), ""), "number": 0.0, "text": ""}
        return {**row, **{name: blank.get(self.forms.get(name, "text"), []) for name in self.label_fields}}

    def joined_predictions(self, windows: Sequence[Prediction]) -> Prediction:
        """The prediction for an example from those of all its windows; the first where a task reads none in windows."""
        return windows[0]

    def placed_prediction(self, prediction: Prediction, row: Row) -> Prediction:
        """The prediction as it is written beside its row, whose fields are as the user gave them.

        A task that speaks of places in a text adds what they are in this one; others add nothing.
        """
        return prediction

    def asking(self, text: str) -> Row:
        """The row of a text by itself, to generate from."""
        return {self.prompt_fields[0]: text}

    def prompt(self, row: Row, tokenizer: Any) -> list[int]:
        """The tokens that a model goes on from, as they are in training; the row needs ``prompt_fields`` alone.

        Raises:
            ConfigError: a field that is missing or does not fit; or the task generates nothing.
        """
        raise ConfigError("the task of this run generates no text; causal-lm, instruction and chat do")

    def ends(self, tokenizer: Any) -> tuple[list[int], list[str]]:
        """The tokens and the strings at which a text that is generated ends."""
        return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id], []

    def reference(self, row: Row) -> str | None:
        """The text that should follow the prompt; None where the task knows none, and nothing generated is scored."""
        return None

    def scores(self, metric: Metric) -> dict[str, float]:
        """The figures of an accumulator.

        Raises:
            ConfigError: one whose direction the task does not declare, or no primary one.
            PluginError: one that is no number, although the model has not diverged.
        """
        figures = metric.compute()
        for name in (self.primary_metric, *figures):
            if name not in figures or name not in self.better:
                what = "declares no direction for" if name in figures else "does not compute"
                raise ConfigError(f"{type(self).__module__}: Task {what} the metric {name} (primary_metric, better)")
        for name, value in figures.items():
            if not isinstance(value, int | float) or (math.isnan(value) and not metric.diverged):
                raise PluginError(
                    f"{file_of(type(metric))}: {type(metric).__name__}.compute gives {name} as {value!r:.80}, expected "
                    "a number, also where the figure is not defined"
                )
        return figures

    def require_labels(self, labels: object, batch: int, tokens: int) -> Tensor:
        """Check that what ``label_tensor`` gives is what the task says of its labels: memory and bytes go by that.

        Raises:
            PluginError: another type or shape.
        """
        shape = tuple(self.label_shape(batch, tokens))
        if isinstance(labels, Tensor) and (labels.dtype, tuple(labels.shape)) == (self.label_dtype, shape):
            return labels
        found = f"{labels.dtype} of {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise PluginError(
            f"{file_of(type(self))}: {type(self).__name__}.label_tensor gives {found}, and label_dtype and label_shape "
            f"say {self.label_dtype} of {shape}"
        )


def check_declared(task: type[BaseTask]) -> None:
    """Look at what a task says of itself, beyond names and types, when it is loaded and not in the middle of a run.

    Raises:
        ConfigError: what does not fit; names the file and the nearest valid name.
    """
    file = inspect.getfile(task)
    classes = [each for each in vars(sys.modules[task.__module__]).values() if isinstance(each, type)]
    for metric in (each for each in classes if issubclass(each, Metric) and each.__module__ == task.__module__):
        if missing := sorted(metric.__abstractmethods__):
            raise ConfigError(f"{file}: {metric.__name__} defines no {' and no '.join(missing)}, as a Metric must")
    if task.primary_metric not in task.better:
        raise ConfigError(
            f"{file}: Task does not say whether a higher or a lower {task.primary_metric} is better; add"
            f' better = {{"{task.primary_metric}": "higher"}} or "lower", with a word for every figure of its metric'
        )
    fields = (*task.fields, *task.optional_fields)
    for attribute in ("forms", "may_be_empty", "other_names", "prompt_fields"):
        named = getattr(task, attribute)
        if others := sorted(set(named) - set(fields)):
            raise ConfigError(f"{file}: Task.{attribute}: {others[0]} is no field{did_you_mean(others[0], fields)}")
    if others := sorted(set(task.label_fields) - set(task.fields)):
        raise ConfigError(f"{file}: Task.label_fields: {others[0]} is no field{did_you_mean(others[0], fields)}")
    if single := [field for field in task.may_be_empty if task.forms.get(field) not in ("words", "classes", "set")]:
        raise ConfigError(f"{file}: Task.may_be_empty: {single[0]} is no list; its form must be words, classes or set")
    if task.one_class and not task.has_classes:
        raise ConfigError(f"{file}: Task.one_class needs has_classes")
