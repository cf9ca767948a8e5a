"""Figures of generated texts beside the texts that should have come, by libraries that the field's papers use.

    rouge         rouge1, rouge2, rougeL: F1 of words, pairs of words and longest common sequence, the mean over texts,
                  by rouge-score without stemming; it reads letters a to z and digits alone
    bleu          of all texts together, by sacrebleu (13a tokens)
    chrf          chrF2 of all texts together, by sacrebleu
    exact_match   the share of texts that are the reference, without white space at either end

All are fractions from 0 to 1; papers often give BLEU and chrF times 100.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple

from atlas_cli.errors import ConfigError
from atlas_cli.extras import install_command

Texts = Sequence[str]
_ROUGE = ("rouge1", "rouge2", "rougeL")


def _rouge(texts: Texts, references: Texts) -> dict[str, float]:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(_ROUGE))
    each = [scorer.score(reference, text) for text, reference in zip(texts, references, strict=True)]
    return {name: sum(scores[name].fmeasure for scores in each) / len(each) for name in _ROUGE}


def _bleu(texts: Texts, references: Texts) -> dict[str, float]:
    from sacrebleu.metrics import BLEU

    return {"bleu": BLEU(force=True).corpus_score(list(texts), [list(references)]).score / 100}


def _chrf(texts: Texts, references: Texts) -> dict[str, float]:
    from sacrebleu.metrics import CHRF

    return {"chrf": CHRF().corpus_score(list(texts), [list(references)]).score / 100}


def _exact_match(texts: Texts, references: Texts) -> dict[str, float]:
    same = [text.strip() == reference.strip() for text, reference in zip(texts, references, strict=True)]
    return {"exact_match": sum(same) / len(same)}


class _Kind(NamedTuple):
    figures: tuple[str, ...]
    compute: Callable[[Texts, Texts], dict[str, float]]
    package: str | None = None


METRICS: Mapping[str, _Kind] = {
    "rouge": _Kind(_ROUGE, _rouge, "rouge_score"),
    "bleu": _Kind(("bleu",), _bleu, "sacrebleu"),
    "chrf": _Kind(("chrf",), _chrf, "sacrebleu"),
    "exact_match": _Kind(("exact_match",), _exact_match),
}


def text_figures(metrics: Collection[str]) -> list[str]:
    """The names of the figures of some metrics; of all, a higher value is better."""
    return [figure for metric in metrics for figure in METRICS[metric].figures]


def text_scores(texts: Texts, references: Texts, metrics: Collection[str]) -> dict[str, float]:
    """The figures of texts, each with its reference."""
    scores: dict[str, float] = {}
    for metric in metrics:
        scores |= METRICS[metric].compute(texts, references)
    return scores


def require_text_metrics(metrics: Collection[str], key: str) -> None:
    """Check that the libraries of some metrics are installed.

    Raises:
        ConfigError: one is not.
    """
    for metric in metrics:
        package = METRICS[metric].package
        if package is not None and find_spec(package) is None:
            name = package.replace("_", "-")
            raise ConfigError(
                f"{metric} is computed by {name}, which is not installed: {install_command('text')}", key=key
            )
