"""Figures that the field has definitions for (fractions 0 to 1, never percentages), and the accumulator of the loss."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from atlas_cli.errors import ConfigError
from atlas_cli.tasks.contract import ClassCounts, Term

_PREFIX = re.compile(r"([BIESLUM])(?:-(.*))?", re.DOTALL)
_SAME_ROLE = {"L": "E", "U": "S", "M": "I"}  # BILOU and BMES letters in terms of BIOES
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class RunningLoss:
    """Sum of a loss over batches and how many it counts."""

    def __init__(self) -> None:
        self.total = 0.0
        self.count = 0

    def add(self, loss: tuple[Tensor, int]) -> None:
        """Add one batch as ``BaseTask.loss`` gives it: the mean and the number of what counts."""
        mean, count = loss
        self.total += mean.item() * count
        self.count += count

    def term(self) -> Term:
        """Of the mean."""
        return Term(self.total, self.count)

    def mean(self) -> float:
        """Mean over everything added.

        Raises:
            ConfigError: nothing was added that counts.
        """
        if not self.count:
            raise ConfigError(
                "nothing to evaluate: the test part has no labels left; raise training.max_length or check the data"
            )
        return self.total / self.count


def macro_f1(hits_C: Tensor, labels_C: Tensor, predictions_C: Tensor) -> float:
    """Mean F1 over the classes that occur in labels or predictions, as scikit-learn's ``f1_score(average="macro")``.

    Args:
        hits_C: how often each class was predicted rightly.
        labels_C, predictions_C: how often it occurs among labels and among predictions.
    """
    occurrences_C = labels_C + predictions_C
    seen_C = occurrences_C > 0
    return (2 * hits_C[seen_C].double() / occurrences_C[seen_C]).mean().item()


def matthews(hits_C: Tensor, labels_C: Tensor, predictions_C: Tensor) -> float:
    """Matthews' correlation of any number of classes (Gorodkin's R_K), as scikit-learn's ``matthews_corrcoef``.

    Args:
        hits_C: how often each class was predicted rightly.
        labels_C, predictions_C: how often it occurs among labels and among predictions.
    """
    hits, labels, predictions = (each.double() for each in (hits_C, labels_C, predictions_C))
    count = labels.sum()
    together = hits.sum() * count - labels @ predictions
    spread = (count**2 - labels @ labels) * (count**2 - predictions @ predictions)
    return (together / spread.sqrt()).item() if spread > 0 else 0.0


def entity_spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Entities of one sentence as (type, first word, last word), by the rules of conlleval and seqeval's default mode.

    IOB1, IOB2 and BIOES are read alike (BILOU and BMES letters too): an I or E that nothing opened opens an entity. A
    tag without such a prefix counts as an I of its own type, so that each maximal run of one tag is an entity; only
    ``O`` is outside.
    """
    spans = set()
    previous_role, previous_type, first = "O", "", 0
    for i, tag in enumerate([*tags, "O"]):
        role, kind = _role_and_type(tag)
        opens = role != "O" and (role in "BS" or previous_role in "OES" or kind != previous_type)
        if previous_role != "O" and (role == "O" or opens):
            spans.add((previous_type, first, i - 1))
        if opens:
            first = i
        previous_role, previous_type = role, kind
    return spans


def _role_and_type(tag: str) -> tuple[str, str]:
    if tag == "O":
        return "O", ""
    match = _PREFIX.fullmatch(tag)
    if not match:
        return "I", tag
    return _SAME_ROLE.get(match[1], match[1]), match[2] or "_"


def normalize_answer(text: str) -> str:
    """SQuAD's official normalisation: lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """SQuAD's exact match to the nearest of the answers (none: the empty answer)."""
    return max(float(normalize_answer(prediction) == normalize_answer(gold)) for gold in _scored(answers))


def answer_f1(prediction: str, answers: Sequence[str]) -> float:
    """SQuAD's word F1 to the nearest of the answers (none: the empty answer)."""
    return max(
        _word_f1(normalize_answer(prediction).split(), normalize_answer(gold).split()) for gold in _scored(answers)
    )


def _scored(answers: Sequence[str]) -> list[str]:
    return [gold for gold in answers if normalize_answer(gold)] or [""]


def _word_f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    common = sum((Counter(predicted) & Counter(gold)).values())
    return 2 * common / (len(predicted) + len(gold))


def occurring(
    classes: Sequence[str], labels_C: Tensor, predictions_C: Tensor, hits_C: Tensor
) -> dict[str, ClassCounts]:
    """The counts of each class that is a label or is predicted, by its name."""
    counts = zip(classes, *(x.tolist() for x in (labels_C, predictions_C, hits_C)), strict=True)
    return {
        name: {"labels": labels, "predicted": predicted, "right": right}
        for name, labels, predicted, right in counts
        if labels or predicted
    }
