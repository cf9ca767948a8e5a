"""Intervals against other libraries, and what the privacy score must do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from atlas_cli.audit.figures import (
    Figure,
    Inapplicable,
    auc,
    auc_interval,
    clopper_pearson,
    privacy_score,
    share_interval,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_exact_interval_of_a_share(pair):
    hits, count = pair
    oracle = binomtest(hits, count).proportion_ci(0.95, "exact")
    assert clopper_pearson(hits, count) == pytest.approx((oracle.low, oracle.high), abs=1e-9)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_auc_with_ties(positive, negative):
    truth = [1] * len(positive) + [0] * len(negative)
    assert auc(np.array(positive), np.array(negative)) == pytest.approx(roc_auc_score(truth, positive + negative))


def test_intervals_cover_the_truth_as_often_as_they_say():
    draw = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        # texts of ten tokens, each text easy or hard: tokens of one text are alike
        hits = draw.binomial(10, draw.choice([0.2, 0.8], 60))
        _, low, high = share_interval(hits, [10] * 60)
        covered += low <= 0.5 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_an_interval_of_what_is_always_the_same_is_not_a_point():
    assert share_interval([3] * 50, [3] * 50) == pytest.approx((1.0, 0.9289, 1.0), abs=1e-4)
    value, low, _ = auc_interval(np.arange(30) + 100.0, np.arange(30.0))
    assert value == 1 and low < 0.9


@pytest.mark.parametrize("count", [0, 1, 19])
def test_too_few_examples_give_no_number(count):
    with pytest.raises(Inapplicable, match=f"too few for an interval: {count} examples, and 20 are needed"):
        share_interval([1.0] * count, [1.0] * count)
    with pytest.raises(Inapplicable, match="too few"):
        auc_interval(np.zeros(count), np.zeros(50))


figures = st.builds(
    lambda ends, chance: Figure("a", "b", "c", "d", sum(ends) / 2, *sorted(ends), chance, 1.0, 50),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.floats(0, 0.9),
)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(figures, min_size=1, max_size=5), figures)
def test_one_attack_more_can_only_lower_the_score(found, another):
    score, lower = privacy_score(found), privacy_score([*found, another])
    assert 0 <= lower <= score <= 1
    assert lower == min(score, privacy_score([another]))


def test_score_by_hand():
    weak = Figure("a", "b", "c", "d", 0.5, 0.4, 0.6, 0.5, 1.0, 50)
    strong = Figure("a", "b", "c", "d", 0.7, 0.6, 0.8, 0.0, 1.0, 50)
    assert privacy_score([weak]) == pytest.approx(0.8)  # 1 - (0.6 - 0.5) / 0.5
    assert privacy_score([weak, strong]) == pytest.approx(0.2)
    assert privacy_score([]) is None
