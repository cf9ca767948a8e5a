"""A tag for each word (named entities, parts of speech, ...).

Only the first word-piece of a word carries the label. Metrics: entity_precision, entity_recall, entity_f1 (exact spans
over all words: a word that was cut off at max_length counts as predicted O, so its entities are missed), token_accuracy
(over the words that the model saw), loss.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlas_cli.errors import ConfigError
from atlas_cli.tasks import _rows
from atlas_cli.tasks._heads import Classifier
from atlas_cli.tasks._metrics import RunningLoss, entity_spans
from atlas_cli.tasks.contract import IGNORE, BaseTask, Better, ClassCounts, Feature, Form, Metric, Prediction, Row, Term

_WORD = re.compile(r"[^ \t\r\n]+")  # as data is read: a no-break space is part of a word
_MANY_WORDS = 10_000  # of a row with more, only so many are tokenized where that fills max_length


class _Head(nn.Module):
    """Each hidden state to class logits, in float32."""

    def __init__(self, hidden_size: int, classes: int) -> None:
        super().__init__()
        self.classifier = Classifier(hidden_size, classes)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Logits (B, T, C); those of padding mean nothing and are ignored by the labels."""
        return self.classifier(hidden_BTD)


class _EntityMetric(Metric):
    """Counts of exact entity matches and of correct word tags."""

    def __init__(self, classes: Sequence[str], loss: Callable[[Tensor, Tensor], tuple[Tensor, int]]) -> None:
        self.classes = classes
        self.loss = loss
        self.running = RunningLoss()
        self.correct_words = 0
        self.matched, self.predicted, self.gold = Counter[str](), Counter[str](), Counter[str]()  # by type of entity

    def update(self, logits: Tensor, labels: Tensor, features: Sequence[Feature]) -> None:
        """Logits (B, T, C), labels (B, T); ``meta`` holds all gold tags and the numbers of the labelled words."""
        labels = labels.to(logits.device)
        self.running.add(self.loss(logits, labels))
        counted_BT = labels != IGNORE
        predictions_BT = logits.argmax(-1)
        self.correct_words += int((predictions_BT == labels)[counted_BT].sum())
        rows = zip(predictions_BT.cpu(), counted_BT.cpu(), features, strict=True)
        for predictions_T, counted_T, feature in rows:
            gold_tags, words = feature["meta"]["tags"], feature["meta"]["words"]
            tags = ["O"] * len(gold_tags)
            for word, prediction in zip(words, predictions_T[counted_T].tolist(), strict=True):
                tags[word] = self.classes[prediction]
            gold, predicted = entity_spans(gold_tags), entity_spans(tags)
            for count, spans in ((self.gold, gold), (self.predicted, predicted), (self.matched, gold & predicted)):
                count.update(kind for kind, _, _ in spans)

    def compute(self) -> dict[str, float]:
        """``entity_f1``, ``entity_precision``, ``entity_recall`` (0 where undefined), ``token_accuracy``, ``loss``."""
        loss = self.running.mean()
        matched, predicted, gold = self.matched.total(), self.predicted.total(), self.gold.total()
        return {
            "entity_f1": 2 * matched / max(gold + predicted, 1),
            "entity_precision": matched / max(predicted, 1),
            "entity_recall": matched / max(gold, 1),
            "token_accuracy": self.correct_words / self.running.count,
            "loss": loss,
        }

    def terms(self, part: Metric) -> dict[str, Term]:
        """All of them are quotients of counts."""
        matched, predicted, gold = self.matched.total(), self.predicted.total(), self.gold.total()
        return {
            "entity_f1": Term(2 * matched, gold + predicted),
            "entity_precision": Term(matched, predicted),
            "entity_recall": Term(matched, gold),
            "token_accuracy": Term(self.correct_words, self.running.count),
            "loss": self.running.term(),
        }

    def by_class(self) -> dict[str, ClassCounts]:
        """Of each type of entity."""
        return {
            kind: {"labels": self.gold[kind], "predicted": self.predicted[kind], "right": self.matched[kind]}
            for kind in sorted({*self.gold, *self.predicted})
        }


class Task(BaseTask):
    """Token classification: columns tokens (a list of words) and tags (a list as long)."""

    fields: ClassVar[tuple[str, ...]] = ("tokens", "tags")
    label_fields: ClassVar[tuple[str, ...]] = ("tags",)
    forms: ClassVar[Mapping[str, Form]] = {"tokens": "words", "tags": "classes"}
    has_classes: ClassVar[bool] = True
    primary_metric: ClassVar[str] = "entity_f1"
    better: ClassVar[Mapping[str, Better]] = {
        **dict.fromkeys(("entity_f1", "entity_precision", "entity_recall", "token_accuracy"), "higher"),
        "loss": "lower",
    }
    prediction_fields: ClassVar[tuple[str, ...]] = ("tags", "scores")

    @classmethod
    def labels_in(cls, row: Row) -> list[str]:
        """The row's tags, one a word."""
        return [_rows.class_name(tag, "tags") for tag in _sequence(row, "tags")]

    def encode(self, row: Row, tokenizer: Any, max_length: int) -> list[Feature]:
        """One feature; words beyond ``max_length`` are cut and flagged, but their tags stay in ``meta`` for the metric.

        Raises:
            ConfigError: a tag outside the classes, lists that differ in length or hold no text, or no token.
        """
        words, tags = _sequence(row, "tokens"), self.labels_in(row)
        if len(words) != len(tags):
            raise ConfigError(f"a row has {len(words)} tokens but {len(tags)} tags; each word needs one tag")
        if not all(isinstance(word, str) for word in words):
            raise ConfigError("field 'tokens' must hold text only; fix the data or the column")
        if not getattr(tokenizer, "is_fast", False):
            raise ConfigError(
                "token-classification needs a fast tokenizer (a tokenizer.json) to align words with pieces"
            )
        if not any(words):
            raise ConfigError("empty text: field 'tokens' gives no token; drop such rows")
        ids = [_rows.class_id(tag, self.class_ids) for tag in tags]
        if _reads_spaces(tokenizer):
            words = words[:1] + [f" {word}" if word else word for word in words[1:]]
        few = max(_MANY_WORDS, 4 * max_length)
        first = len(words) - few if self.keep_end and len(words) > few else 0
        options = {"is_split_into_words": True, "truncation": True, "max_length": max_length}
        with _rows.cutting(tokenizer, self.keep_end):
            encoded = tokenizer(words[first : first + few], **options)
            if len(words) > few and not encoded.encodings[0].overflowing:  # words that give no token
                first, encoded = 0, tokenizer(words, **options)
        labels: list[int] = []
        labelled: list[int] = []
        for number in encoded.word_ids():
            word = None if number is None else first + number
            if word is None or word in labelled[-1:]:
                labels.append(IGNORE)
            else:
                labels.append(ids[word])
                labelled.append(word)
        if not labelled:
            raise ConfigError(
                f"no word of a row gives a token within {max_length} tokens; raise it or drop the row",
                key="training.max_length",
            )
        meta = {"tags": tags, "words": labelled}
        truncated = bool(encoded.encodings[0].overflowing)
        return [Feature(input_ids=encoded["input_ids"], labels=labels, truncated=truncated, meta=meta)]

    def label_tensor(self, features: Sequence[Feature], length: int) -> Tensor:
        """Class ids (B, T), int64; -100 on later pieces, special tokens and padding."""
        rows = [feature["labels"] + [IGNORE] * (length - len(feature["labels"])) for feature in features]  # type: ignore
        return torch.tensor(rows, dtype=torch.int64)

    def label_shape(self, batch: int, tokens: int) -> tuple[int, ...]:
        """One a token."""
        return (batch, tokens)

    def build_head(self, hidden_size: int, lm_head: nn.Module | None) -> nn.Module:
        """One linear layer a token; D * C + C parameters."""
        return _Head(hidden_size, len(self.classes))

    def targets(self, labels: Tensor) -> Tensor:
        """The labels themselves."""
        return labels

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Mean cross-entropy over labelled tokens of (B, T, C) and (B, T), and their number."""
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE), int(
            (labels != IGNORE).sum()
        )

    def metric(self) -> Metric:
        """Entity precision, recall and F1, token accuracy and loss."""
        return _EntityMetric(self.classes, self.loss)

    def predictions(self, logits: Tensor, features: Sequence[Feature]) -> list[Prediction]:
        """The likeliest tag of each word and its probability; None for words that were cut off."""
        scores_BT, tags_BT = (each.cpu() for each in logits.float().softmax(-1).max(-1))
        labelled_BT = self.label_tensor(features, logits.shape[1]) != IGNORE
        found: list[Prediction] = []
        for feature, tags_T, scores_T, labelled_T in zip(features, tags_BT, scores_BT, labelled_BT, strict=True):
            words, count = feature["meta"]["words"], len(feature["meta"]["tags"])
            tags = dict(zip(words, (self.classes[tag] for tag in tags_T[labelled_T].tolist()), strict=True))
            scores = dict(zip(words, scores_T[labelled_T].tolist(), strict=True))
            found.append({"tags": [tags.get(i) for i in range(count)], "scores": [scores.get(i) for i in range(count)]})
        return found

    def with_blank_labels(self, row: Row) -> Row:
        """A tag for each word."""
        return {**row, "tags": self.classes[:1] * len(_sequence(row, "tokens"))}

    def placed_prediction(self, prediction: Prediction, row: Row) -> Prediction:
        """Also the entities, in order: type, text, the characters from ``start`` to ``end``, the mean score of words.

        Characters are those of the text as it was given, or of the words with one space between each.
        """
        given = row["tokens"]
        if isinstance(given, str):
            text, places = given, [word.span() for word in _WORD.finditer(given)]
        else:
            text, ends = " ".join(given), list(accumulate(len(word) + 1 for word in given))
            places = [(end - 1 - len(word), end - 1) for word, end in zip(given, ends, strict=True)]
        entities = []
        tags, scores = [tag or "O" for tag in prediction["tags"]], prediction["scores"]
        for kind, first, last in sorted(entity_spans(tags), key=lambda span: span[1:]):
            start, end = places[first][0], places[last][1]
            score = sum(scores[first : last + 1]) / (last + 1 - first)
            entities.append({"type": kind, "text": text[start:end], "start": start, "end": end, "score": score})
        return {"entities": entities, **prediction}


def _sequence(row: Row, name: str) -> list[Any]:
    value = _rows.field(row, name)
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(
            f"field {name!r} must be a list with one entry a word, not {type(value).__name__}; use JSONL or Parquet"
        )
    return list(value)


@lru_cache(maxsize=1)
def _reads_spaces(tokenizer: Any) -> bool:
    """Whether running text is read with the space before a word (GPT-2), so that bare words would look glued."""
    text = tokenizer("a a")["input_ids"]
    bare, spaced = (tokenizer(["a", f"{space}a"], is_split_into_words=True)["input_ids"] for space in ("", " "))
    return text == spaced != bare
