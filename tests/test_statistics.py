"""Intervals and tests, against scipy, scikit-learn and all resamples that there are."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest, pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from atlas_cli.statistics import (
    bootstrap,
    correlation,
    holm,
    macro_f1,
    matthews,
    mcnemar,
    paired_bootstrap,
    ratio,
    wilson,
)

LABELS = ["a", "a", "b", "c", "b", "a", "c", "c", "b", "a"]
GUESSED = ["a", "b", "b", "c", "b", "a", "a", "c", "d", "a"]


@pytest.mark.parametrize(("right", "cases"), [(0, 9), (9, 9), (1, 1), (84, 120), (497, 500)])
def test_an_interval_of_a_share_is_wilsons(right, cases):
    known = binomtest(right, cases).proportion_ci(method="wilson")
    assert wilson(right / cases, cases) == pytest.approx((known.low, known.high), abs=1e-7)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (5, 5), (2, 11), (30, 12), (700, 800)])
def test_mcnemars_test_is_the_exact_binomial_one(first, second):
    right = [True, False, True, False]
    counts = (first, second, 3, 4)
    a = [x for x, n in zip([True, False, True, False], counts, strict=True) for _ in range(n)]
    b = [x for x, n in zip([False, True, True, False], counts, strict=True) for _ in range(n)]
    known = binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(a, b) == (first, second, pytest.approx(known, rel=1e-9))
    with pytest.raises(ValueError, match="shorter"):
        mcnemar(a, right[:0])


def test_p_values_are_adjusted_as_holm_does():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # the example of R's p.adjust
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def every_resample(values):
    return np.array([np.mean(drawn) for drawn in product(values, repeat=len(values))])


def test_an_interval_is_of_the_percentiles_of_all_resamples():
    values = [0.0, 0.1, 0.5, 0.7, 1.3]
    low, high = np.percentile(every_resample(values), (2.5, 97.5))
    assert bootstrap(ratio(values), len(values)) == pytest.approx((low, high), abs=0.021)  # a step between resamples
    few = [bootstrap(ratio(values), len(values), seed, resamples=7) for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]


def test_a_difference_is_drawn_on_the_same_examples_and_its_p_is_the_rarer_side_twice():
    first, second = [0.125, 0.5, 0.25, 0.875, 0.5], [0.375, 0.125, 0.5, 1.0, 0.75]
    differences = [b - a for a, b in zip(first, second, strict=True)]
    found, known = paired_bootstrap(ratio(first), ratio(second), 5), every_resample(differences)
    assert found.value == pytest.approx(np.mean(differences))
    assert found.interval == pytest.approx(tuple(np.percentile(known, (2.5, 97.5))), abs=0.021)
    assert found.p == pytest.approx(2 * (known <= 0).mean(), abs=0.01)
    back = paired_bootstrap(ratio(second), ratio(first), 5)
    assert (back.value, back.p) == (-found.value, found.p)
    same = paired_bootstrap(ratio(first), ratio(first), 5, resamples=9)
    assert same == (0.0, None, 1.0)


def test_examples_that_do_not_vary_give_no_interval_and_few_no_small_p():
    """Three perfect answers are no proof of a perfect model, and three of three better ones none of a better one."""
    assert bootstrap(macro_f1(["a", "b", "b"], ["a", "b", "b"]), 3, resamples=99) is None
    assert paired_bootstrap(ratio([0.0, 0.0, 0.0]), ratio([1.0, 1.0, 1.0]), 3, resamples=999) == (1.0, None, 0.25)
    found = paired_bootstrap(ratio([0.0, 0.0, 0.0]), ratio([1.0, 2.0, 3.0]), 3, resamples=999)
    assert found.interval[0] > 0 and found.p == 0.25  # a sign test's: 2 of 8 outcomes are as far out


def test_a_figure_that_is_undefined_on_most_resamples_has_no_interval():
    low, high = bootstrap(ratio([1.0, 3.0] + [0.0] * 8, [1, 1] + [0] * 8), 10, resamples=300)
    assert (low, high) == (1.0, 3.0)  # of the resamples that have one of the two
    assert bootstrap(ratio([0.0, 0.0], [0, 0]), 2, resamples=9) is None
    assert paired_bootstrap(ratio([0.0], [0]), ratio([1.0], [1]), 1, resamples=9)[1:] == (None, None)


def test_figures_of_drawn_examples_are_those_of_the_field():
    drawn = np.array([0, 8, 8, 3, 5, 1, 1, 2])
    label, guess = ([each[i] for i in drawn] for each in (LABELS, GUESSED))
    assert matthews(LABELS, GUESSED)(drawn) == pytest.approx(matthews_corrcoef(label, guess))
    assert matthews(LABELS, GUESSED)(np.array([0, 0])) == 0
    assert macro_f1(LABELS, GUESSED)(drawn) == pytest.approx(f1_score(label, guess, average="macro", zero_division=0))
    assert ratio([2.0, 3.0, 7.0], [1, 2, 4])(np.array([0, 2, 2])) == pytest.approx(16 / 9)
    numbers, others = np.array([3.0, 1.0, 2.0, 2.0, 9.0, 4.0, 1.0, 0.0, 5.0]), np.array([2.0, 1, 1, 2, 3, 8, 0, 1, 2])
    known = pearsonr(numbers[drawn], others[drawn]).statistic, spearmanr(numbers[drawn], others[drawn]).statistic
    found = [correlation(numbers, others, ranked=ranked)(drawn) for ranked in (False, True)]
    assert found == pytest.approx(known)
    assert correlation(numbers, others)(np.array([2, 3, 2])) == 0.0
