"""Figures of generated texts are those of the libraries, and by hand where they are easily counted."""

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from atlas_cli.errors import ConfigError
from atlas_cli.tasks import _generated
from atlas_cli.tasks._generated import METRICS, require_text_metrics, text_figures, text_scores

TEXTS = ["the river runs to the sea.", "a phone", "", "it was good, and it was not very far"]
REFERENCES = ["the river runs to the sea.", "a phone rings", "nothing", "it was bad, and it was not so far"]


def test_figures_are_those_of_rouge_score_and_sacrebleu():
    scores = text_scores(TEXTS, REFERENCES, METRICS)
    assert list(scores) == text_figures(METRICS)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for name in ("rouge1", "rouge2", "rougeL"):
        each = [scorer.score(r, t)[name].fmeasure for t, r in zip(TEXTS, REFERENCES, strict=True)]
        assert scores[name] == pytest.approx(sum(each) / len(each))
    assert 100 * scores["bleu"] == pytest.approx(sacrebleu.corpus_bleu(TEXTS, [REFERENCES]).score)
    assert 100 * scores["chrf"] == pytest.approx(sacrebleu.corpus_chrf(TEXTS, [REFERENCES]).score)
    assert scores["exact_match"] == 0.25
    assert all(0 < value < 1 for value in scores.values())


def test_by_hand():
    scores = text_scores(["a b c", "x y"], ["a b d", " x y\n"], ["rouge", "exact_match"])
    # of a b c and a b d: 2 of 3 words, 1 of 2 pairs, and a sequence of 2
    assert scores == pytest.approx(
        {"rouge1": (2 / 3 + 1) / 2, "rouge2": (1 / 2 + 1) / 2, "rougeL": (2 / 3 + 1) / 2, "exact_match": 0.5}
    )
    several_words = [REFERENCES[0], REFERENCES[3]]
    same = text_scores(several_words, several_words, METRICS)
    assert same == pytest.approx(dict.fromkeys(same, 1.0))


def test_a_library_that_is_missing_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(_generated, "find_spec", lambda name: None)
    require_text_metrics(["exact_match"], "key")
    with pytest.raises(ConfigError, match=r"rouge is computed by rouge-score, which is not installed: pip .*\[text\]"):
        require_text_metrics(["exact_match", "rouge"], "evaluation.generate.metrics")
