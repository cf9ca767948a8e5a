"""ROUGE-L against brute force."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_cli.audit.rouge import lcs_length, rouge_l

TEXTS = st.lists(st.integers(0, 3), max_size=7)


def subsequences(text):
    return {chosen for n in range(len(text) + 1) for chosen in combinations(text, n)}


@given(TEXTS, TEXTS)
def test_the_longest_common_subsequence_is_that_of_brute_force(one, other):
    assert lcs_length(one, other) == max(map(len, subsequences(one) & subsequences(other)))


@given(TEXTS, TEXTS)
def test_it_is_symmetric_between_0_and_1_and_1_for_equal_texts_alone(one, other):
    value = rouge_l(one, other)
    assert value == rouge_l(other, one) and 0 <= value <= 1 and (value == 1) == (one == other)


def test_order_counts_and_position_does_not():
    assert rouge_l([1, 2, 3, 4], [9, 1, 2, 3]) == pytest.approx(0.75)  # no position is right
    assert rouge_l([4, 3, 2, 1], [1, 2, 3, 4]) == pytest.approx(0.25)  # all tokens are there
    assert rouge_l([1, 2], [1, 2, 3, 4]) == pytest.approx(2 * 1 * 0.5 / 1.5)
