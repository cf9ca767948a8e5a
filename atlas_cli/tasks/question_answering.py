"""Extractive question answering: the answer is a span of the context, or nothing.

A context that does not fit is read in windows that overlap by a quarter of the room that the question leaves. A window
without the whole answer is labelled with its first token ([CLS] for encoders). Metrics: SQuAD's exact_match and f1, as
fractions 0 to 1, and loss; of several right answers the nearest counts. The prediction is the best span of at most 30
context tokens over all windows. Where the test part has a question without an answer, as SQuAD 2.0, "no answer" is
predicted where the lowest first-token score of a window is above that of the best span (a threshold of 0), and figures
of both kinds of question are given, too: has_answer_f1 and has_answer_exact_match (HasAns of the official script), and
no_answer_exact_match (NoAns, whose F1 is the same).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlas_cli.errors import ConfigError
from atlas_cli.tasks import _rows
from atlas_cli.tasks._heads import Classifier
from atlas_cli.tasks._metrics import RunningLoss, answer_f1, exact_match
from atlas_cli.tasks.contract import BaseTask, Better, Feature, Form, Metric, Prediction, Row, Term

MAX_ANSWER_TOKENS = 30


class _Head(nn.Module):
    """Each hidden state to a start and an end logit, in float32; padding can be neither."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.classifier = Classifier(hidden_size, 2)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Logits (B, T, 2); the smallest finite number where the mask is 0."""
        logits_BT2 = self.classifier(hidden_BTD)
        return logits_BT2.masked_fill(~mask_BT.bool().unsqueeze(-1), torch.finfo(logits_BT2.dtype).min)


@dataclass
class _Example:
    answers: list[str]
    rows: int = 0  # rows with the same question, context and answers
    best: str = ""
    score: float = -math.inf
    null_score: float = math.inf


class _SpanMetric(Metric):
    """Best span and score of each example over its windows, in whatever batches they come."""

    def __init__(self, loss: Callable[[Tensor, Tensor], tuple[Tensor, int]]) -> None:
        self.loss = loss
        self.running = RunningLoss()
        self.examples: dict[str, _Example] = {}

    def update(self, logits: Tensor, labels: Tensor, features: Sequence[Feature]) -> None:
        """Logits (B, T, 2), labels (B, 2)."""
        labels = labels.to(logits.device)
        self.running.add(self.loss(logits, labels))
        for logits_T2, feature in zip(logits.float().cpu(), features, strict=True):
            meta = feature["meta"]
            example = self.examples.setdefault(meta["example"], _Example(meta["answers"]))
            example.rows += meta["window"] == 0
            found = _best_answer(logits_T2, meta)
            example.null_score = min(example.null_score, found["no_answer_score"])
            if found["score"] > example.score:
                example.score, example.best = found["score"], found["answer"]

    def compute(self) -> dict[str, float]:
        """``f1`` and ``exact_match`` (fractions, over examples), of both kinds of question where there are some without
        an answer, and ``loss`` (over windows)."""
        loss = self.running.mean()
        kinds = self._kinds()
        figures: dict[str, float] = {}
        for kind, examples in kinds.items():
            total, exact, f1 = _sums(examples, may_be_null=len(kinds) > 1)
            figures |= {f"{kind}f1": f1 / total, f"{kind}exact_match": exact / total}
        figures.pop("no_answer_f1", None)  # equal to the exact match: an answer, or none
        return {**figures, "loss": loss}

    def terms(self, part: _SpanMetric) -> dict[str, Term]:
        """F1 and exact match are means over examples of a kind, the loss over their windows."""
        kinds, found = part._kinds(), {"loss": self.running.term()}
        for kind, examples in self._by_kind().items():
            if kind in kinds:
                total, exact, f1 = _sums(examples, may_be_null=len(kinds) > 1)
                found |= {f"{kind}f1": Term(f1, total), f"{kind}exact_match": Term(exact, total)}
        found.pop("no_answer_f1", None)
        return found

    def trials(self) -> dict[str, int]:
        """An exact match is a share of examples."""
        return {f"{kind}exact_match": sum(e.rows for e in examples) for kind, examples in self._kinds().items()}

    def _kinds(self) -> dict[str, list[_Example]]:
        """All examples, and where some have no answer those with and without one, by the start of a figure's name."""
        kinds = self._by_kind()
        return kinds if "no_answer_" in kinds else {"": kinds[""]}

    def _by_kind(self) -> dict[str, list[_Example]]:
        every = list(self.examples.values())
        without = [example for example in every if not example.answers]
        answered = [example for example in every if example.answers]
        kinds = {"": every, "has_answer_": answered, "no_answer_": without}
        return {kind: examples for kind, examples in kinds.items() if examples}


def _sums(examples: Sequence[_Example], may_be_null: bool) -> tuple[int, float, float]:
    """How many there are, and their exact matches and F1, summed up."""
    total, exact, f1 = 0, 0.0, 0.0
    for example in examples:
        prediction = "" if may_be_null and example.null_score > example.score else example.best
        total += example.rows
        exact += example.rows * exact_match(prediction, example.answers)
        f1 += example.rows * answer_f1(prediction, example.answers)
    return total, exact, f1


def best_span(start_N: Tensor, end_N: Tensor, longest: int = MAX_ANSWER_TOKENS) -> tuple[float, int, int]:
    """Largest start + end score with the end at most ``longest`` - 1 tokens after the start: (score, first, last)."""
    ends_NL = F.pad(end_N, (0, longest - 1), value=-math.inf).unfold(0, longest, 1)
    scores_NL = start_N.unsqueeze(-1) + ends_NL
    first, after = divmod(int(scores_NL.argmax()), longest)
    return scores_NL[first, after].item(), first, first + after


def _best_answer(logits_T2: Tensor, meta: Mapping[str, Any]) -> Prediction:
    """The best span of a window, its place and score, and that of the window's first token: no answer."""
    offsets = meta["offsets"]
    start_N, end_N = logits_T2[meta["first"] : meta["first"] + len(offsets)].unbind(-1)
    score, first, last = best_span(start_N, end_N)
    left, right = offsets[first][0], offsets[last][1]
    found = {"answer": meta["context"][left:right], "start": left, "end": right}
    return {**found, "score": score, "no_answer_score": logits_T2[0].sum().item()}


class Task(BaseTask):
    """Extractive question answering: columns question, context and answers.

    Answers are as in SQuAD (``{"text": [...], "answer_start": [...]}``), a list of ``{text, answer_start or start}`` or
    of texts, or one text; a text without a position is looked up in the context. An empty text or list means that there
    is no answer. Training uses the first one.
    """

    fields: ClassVar[tuple[str, ...]] = ("question", "context", "answers")
    label_fields: ClassVar[tuple[str, ...]] = ("answers",)
    forms: ClassVar[Mapping[str, Form]] = {"answers": "any"}  # the shapes above; an empty list: there is no answer
    primary_metric: ClassVar[str] = "f1"
    better: ClassVar[Mapping[str, Better]] = {
        **dict.fromkeys(
            ("f1", "exact_match", "has_answer_f1", "has_answer_exact_match", "no_answer_exact_match"), "higher"
        ),
        "loss": "lower",
    }
    prediction_fields: ClassVar[tuple[str, ...]] = ("answer", "start", "end", "score", "no_answer_score")

    @classmethod
    def check(cls, row: Row) -> None:
        """Answers must have one of the forms above, and be in the context."""
        find_answers(_rows.field(row, "answers"), _rows.text(row, "context"))

    def encode(self, row: Row, tokenizer: Any, max_length: int) -> list[Feature]:
        """One feature a window; a question longer than half of ``max_length`` is cut and flagged.

        Flagged is also a row whose answer no window holds, so that it trains as if there were none.

        Raises:
            ConfigError: a field that is missing or of another type, an answer that is not in the context, or no room.
        """
        question, context = _rows.text(row, "question"), _rows.text(row, "context")
        answers = find_answers(_rows.field(row, "answers"), context)
        if not getattr(tokenizer, "is_fast", False):
            raise ConfigError(
                "question-answering needs a fast tokenizer (a tokenizer.json) to find answers among tokens"
            )
        offsets = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
            "offset_mapping"
        ]
        truncated = len(offsets) > max_length // 2
        if truncated:
            half = max_length // 2
            question = question[offsets[-half][0] :] if self.keep_end else question[: offsets[half - 1][1]]
        if tokenizer.sep_token is None:
            question += "\n"  # nothing else would separate the two
        question_length = len(tokenizer(question, add_special_tokens=False)["input_ids"])
        room = max_length - question_length - tokenizer.num_special_tokens_to_add(pair=True)
        if room < 1:
            raise ConfigError(
                f"training.max_length {max_length} leaves no room for a context after the question; raise it"
            )
        encoded = tokenizer(
            question,
            context,
            truncation="only_second",
            max_length=max_length,
            stride=room // 4,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        texts = [text for text, _ in answers]
        digest = hashlib.sha256(repr((question, context, texts)).encode()).hexdigest()
        features = []
        for window, ids in enumerate(encoded["input_ids"]):
            positions = [t for t, part in enumerate(encoded.sequence_ids(window)) if part == 1]
            if not positions:
                raise ConfigError("empty text: field 'context' gives no token; drop such rows")
            offsets = encoded["offset_mapping"][window][positions[0] : positions[-1] + 1]
            span = _locate(answers[0], offsets) if answers else None
            labels = [positions[0] + span[0], positions[0] + span[1]] if span else [0, 0]
            meta = {"example": digest, "window": window, "answers": texts}
            meta |= {"context": context, "first": positions[0], "offsets": [list(pair) for pair in offsets]}
            feature = Feature(input_ids=ids, labels=labels, truncated=truncated, meta=meta)
            if any(encoded.get("token_type_ids", [[]] * (window + 1))[window]):
                feature["token_type_ids"] = encoded["token_type_ids"][window]
            features.append(feature)
        if answers and all(feature["labels"] == [0, 0] for feature in features):
            for feature in features:
                feature["truncated"] = True
        return features

    def label_tensor(self, features: Sequence[Feature], length: int) -> Tensor:
        """First and last token of the answer (B, 2), int64; (0, 0) where the window has none."""
        return torch.tensor([feature["labels"] for feature in features], dtype=torch.int64)

    def label_shape(self, batch: int, tokens: int) -> tuple[int, ...]:
        """The first and last token of the answer."""
        return (batch, 2)

    def build_head(self, hidden_size: int, lm_head: nn.Module | None) -> nn.Module:
        """One linear layer a token; 2 D + 2 parameters."""
        return _Head(hidden_size)

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Mean of the cross-entropies of start and end of (B, T, 2) and (B, 2), and B."""
        start, end = (F.cross_entropy(logits[..., i].float(), labels[:, i]) for i in (0, 1))
        return (start + end) / 2, len(labels)

    def metric(self) -> Metric:
        """SQuAD exact match and F1 over examples, and loss."""
        return _SpanMetric(self.loss)

    def predictions(self, logits: Tensor, features: Sequence[Feature]) -> list[Prediction]:
        """The best answer, its characters of the context, and its score, a sum of a start and an end logit; that there
        is none has a score, too."""
        return [_best_answer(each, f["meta"]) for each, f in zip(logits.float().cpu(), features, strict=True)]

    def joined_predictions(self, windows: Sequence[Prediction]) -> Prediction:
        """The best answer of all windows; that there is none must hold in each."""
        best = max(windows, key=lambda window: float(window["score"]))
        return {**best, "no_answer_score": min(window["no_answer_score"] for window in windows)}


def find_answers(value: Any, context: str) -> list[tuple[str, int]]:
    """Answers as (text, character position in the context); empty where there is none.

    Raises:
        ConfigError: another form, or an answer that is not where it should be.
    """
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        starts = value.get("answer_start")
        starts = [None] * len(value["text"]) if starts in (None, []) else starts
        if not isinstance(starts, list) or len(starts) != len(value["text"]):
            positions = len(starts) if isinstance(starts, list) else f"{type(starts).__name__} as"
            raise ConfigError(f"field 'answers' has {len(value['text'])} texts but {positions} positions")
        value = [{"text": text, "start": start} for text, start in zip(value["text"], starts, strict=True)]
    items = value if isinstance(value, list) else [value]
    return [_find(item, context) for item in items if item not in ("", {"text": ""})]


def _find(item: Any, context: str) -> tuple[str, int]:
    text, start = (item, None) if isinstance(item, str) else (None, None)
    if isinstance(item, dict):
        text, start = item.get("text"), item.get("start", item.get("answer_start"))
    if not isinstance(text, str) or not text.strip() or not isinstance(start, int | None) or isinstance(start, bool):
        raise ConfigError(
            "field 'answers' must be text, a list of {text, answer_start}, or {text: [...], answer_start: [...]}"
        )
    found = context.find(text) if start is None else start
    if found < 0 or context[found : found + len(text)] != text:
        place = "" if start is None else f" at answer_start {start}"
        hint = "fix the data"
        if text.lstrip()[:1] in ("{", "["):
            hint = "it looks like a mapping or list written as text: use JSONL or Parquet"
        raise ConfigError(f"answer {text[:60]!r} is not in the context{place}; {hint}")
    return text.strip(), found + len(text) - len(text.lstrip())


def _locate(answer: tuple[str, int], offsets: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """First and last token of an answer in a window; None unless all of it is there."""
    begin, end = answer[1], answer[1] + len(answer[0])
    if begin < offsets[0][0] or end > offsets[-1][1]:
        return None
    inside = [t for t, (left, right) in enumerate(offsets) if left < end and right > begin]
    return (inside[0], inside[-1]) if inside else None
