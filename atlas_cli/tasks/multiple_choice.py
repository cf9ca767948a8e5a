"""Which of some choices is right: the answer to a question, the end of a text. Each choice is read by itself.

Columns question, choices and answer, and context where there is one. `choices` is a list of texts, which may differ in
length from row to row, or ARC's `{"text": [...], "label": ["A", ...]}`; or each choice has a column, and `choices`
lists these: `choices: [ending0, ending1]`. `answer` is the number of the right choice, from 0, or its text or label.

A choice is read as the question and the choice, or the context and then question and choice. All choices of a row cross
the cut, and are in one batch; `training.batch_size` counts choices. The head gives each choice one score; trained by
the cross-entropy of the softmax over a row's choices. Metrics: accuracy (the highest score is that of the right choice)
and loss, both over rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from atlas_cli.errors import ConfigError
from atlas_cli.tasks import _rows
from atlas_cli.tasks._texts import TextTask
from atlas_cli.tasks.contract import Better, Feature, Form, Metric, Prediction, Row, Term, example_numbers


class _ChoiceMetric(Metric):
    """The scores of a row's choices, in whatever batches they come."""

    def __init__(self) -> None:
        self.scores: dict[int, dict[int, float]] = {}
        self.answers: dict[int, int] = {}

    def update(self, logits: Tensor, labels: Tensor, features: Sequence[Feature]) -> None:
        """Logits (B, 1), labels (B, 2)."""
        for score, (_, right), feature in zip(logits.squeeze(-1).tolist(), labels.tolist(), features, strict=True):
            row, choice = feature["row"], feature["meta"]["choice"]
            self.scores.setdefault(row, {})[choice] = score
            if right:
                self.answers[row] = choice

    def compute(self) -> dict[str, float]:
        """``accuracy`` and ``loss``."""
        if not self.scores:
            raise ConfigError("nothing to evaluate: the test part has no rows; check the data")
        right, loss = self._sums()
        return {"accuracy": right / len(self.scores), "loss": loss / len(self.scores)}

    def trials(self) -> dict[str, int]:
        """The accuracy is a share of rows."""
        return {"accuracy": len(self.scores)}

    def terms(self, part: Metric) -> dict[str, Term]:
        """Both are means over rows."""
        right, loss = self._sums()
        return {"accuracy": Term(right, len(self.scores)), "loss": Term(loss, len(self.scores))}

    def _sums(self) -> tuple[int, float]:
        right, loss = 0, 0.0
        for row, by_choice in self.scores.items():
            scores = torch.tensor([by_choice[choice] for choice in sorted(by_choice)], dtype=torch.float64)
            right += int(scores.argmax()) == self.answers[row]
            loss -= scores.log_softmax(0)[self.answers[row]].item()
        return right, loss


class Task(TextTask):
    """Multiple choice: columns question, choices and answer."""

    fields: ClassVar[tuple[str, ...]] = ("question", "choices", "answer")
    optional_fields: ClassVar[tuple[str, ...]] = ("context",)
    label_fields: ClassVar[tuple[str, ...]] = ("answer",)
    other_names: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "choices": ("options", "endings"),
        "answer": ("label", "answerKey"),
    }
    forms: ClassVar[Mapping[str, Form]] = {"choices": "any", "answer": "any"}
    together: ClassVar[bool] = True
    primary_metric: ClassVar[str] = "accuracy"
    better: ClassVar[Mapping[str, Better]] = {"accuracy": "higher", "loss": "lower"}
    prediction_fields: ClassVar[tuple[str, ...]] = ("answer", "choice", "scores")

    @classmethod
    def check(cls, row: Row) -> None:
        """There must be two choices or more, and the answer one of them."""
        _right(row, *_choices(row))

    def encode(self, row: Row, tokenizer: Any, max_length: int) -> list[Feature]:
        """A feature for each choice; text beyond ``max_length`` is cut (the longer of the pair first) and flagged.

        Raises:
            ConfigError: a field that is missing or does not fit, or text that gives no token.
        """
        choices, names = _choices(row)
        right, question = _right(row, choices, names), _rows.text(row, "question")
        first = _rows.text(row, "context") if "context" in row else question
        if tokenizer.sep_token is None:
            first += "\n"  # nothing else would separate the two
        features = []
        for number, choice in enumerate(choices):
            second = f"{question} {choice}" if "context" in row else choice
            pair = {"text": first, "text_pair": second, "right": int(number == right)}
            [feature] = super().encode(pair, tokenizer, max_length)
            features.append(Feature(**{**feature, "meta": {"choice": number, "text": choice}}))
        return features

    def label_tensor(self, features: Sequence[Feature], length: int) -> Tensor:
        """Of which row of the batch each choice is, and 1 for the right one, else 0: (B, 2), int64."""
        rights = [feature["labels"] for feature in features]
        return torch.tensor(list(zip(example_numbers(features), rights, strict=True)), dtype=torch.int64)

    def label_shape(self, batch: int, tokens: int) -> tuple[int, ...]:
        """A row's number and a label for each choice."""
        return (batch, 2)

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Mean over rows of the cross-entropy of a softmax over the row's choices, (B, 1) and (B, 2); how many rows."""
        scores_B, (rows_B, right_B) = logits.squeeze(-1).float(), labels.unbind(1)
        of_row_BB = rows_B.unsqueeze(0) == rows_B.unsqueeze(1)
        log_totals_B = scores_B.expand_as(of_row_BB).masked_fill(~of_row_BB, float("-inf")).logsumexp(1)
        count = int(right_B.sum())
        return ((log_totals_B - scores_B) * right_B).sum() / max(count, 1), count

    def metric(self) -> Metric:
        """Accuracy and loss over rows."""
        return _ChoiceMetric()

    def predictions(self, logits: Tensor, features: Sequence[Feature]) -> list[Prediction]:
        """Each choice with its score; joined over a row they are the likeliest choice and the probability of each."""
        return [
            {"answer": feature["meta"]["text"], "choice": feature["meta"]["choice"], "scores": [score]}
            for score, feature in zip(logits.squeeze(-1).tolist(), features, strict=True)
        ]

    def joined_predictions(self, windows: Sequence[Prediction]) -> Prediction:
        """The choice of the highest score, its number from 0, and the probability of every choice."""
        scores = torch.tensor([window["scores"][0] for window in windows])
        best = windows[int(scores.argmax())]
        return {**best, "scores": scores.softmax(0).tolist()}

    def with_blank_labels(self, row: Row) -> Row:
        """The row with its first choice as the answer."""
        return {**row, "answer": 0}

    def label_text(self, feature: Feature) -> str:
        """Whether a choice is right."""
        return f"-> choice {feature['meta']['choice']}, {'right' if feature['labels'] else 'wrong'}"

    def label_summary(self, rows: Sequence[Row]) -> str:
        """How many choices rows have."""
        counts = sorted({len(_choices(row)[0]) for row in rows})
        return f"{' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} choices a row" if counts else ""

    def _label(self, row: Row) -> int:
        return int(row["right"])

    def _outputs(self) -> int:
        return 1


def _choices(row: Row) -> tuple[list[str], list[str]]:
    """The texts of a row's choices, and the names by which its answer may call them.

    Raises:
        ConfigError: another form, fewer than two, or one twice.
    """
    value = _rows.field(row, "choices")
    texts, names = (value.get("text"), value.get("label")) if isinstance(value, dict) else (value, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ConfigError(
            "field 'choices' must be a list of texts, none of them empty; use JSONL or Parquet, or list the columns of"
            " the choices under data.choices"
        )
    if len(texts) < 2:
        raise ConfigError(f"field 'choices' has {len(texts)} of at least 2 choices; fix or drop the row")
    if len(set(texts)) < len(texts):
        raise ConfigError(f"two choices are the same ({next(t for t in texts if texts.count(t) > 1)[:60]!r})")
    if not isinstance(names, list) or (names and len(names) != len(texts)):
        raise ConfigError(f"field 'choices' has {len(texts)} texts and other labels ({names!r:.60})")
    return texts, [str(name) for name in names]


def _right(row: Row, texts: list[str], names: list[str]) -> int:
    """The number of the right choice.

    Raises:
        ConfigError: the answer is none of the choices, or may be one by its text and another by its number.
    """
    answer = _rows.field(row, "answer")
    if isinstance(answer, str) and answer.strip() in names:
        return names.index(answer.strip())
    by_text = texts.index(answer) if isinstance(answer, str) and answer in texts else None
    number = int(answer) if isinstance(answer, str) and answer.strip().isdecimal() else answer
    by_number = number if type(number) is int and 0 <= number < len(texts) and not names else None
    found = {place for place in (by_text, by_number) if place is not None}
    if len(found) == 1:
        return found.pop()
    if found:
        raise ConfigError(f"answer {answer!r} is the text of choice {by_text} and the number of another; write numbers")
    raise ConfigError(
        f"answer {answer!r:.60} is neither a number from 0 to {len(texts) - 1} nor one of the choices"
        + (f" ({', '.join(names)})" if names else "")
    )
