"""Draws of rows to test on."""

import time
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from atlas_cli.data.partitions.holdout import by_label


@given(st.lists(st.sampled_from("abcdefg"), min_size=2), st.floats(0.01, 0.99))
def test_every_label_gives_its_share_and_keeps_a_row(labels, fraction):
    test = by_label(labels, fraction, np.random.default_rng(0))
    rows, taken = Counter(labels), Counter(labels[i] for i in test)
    assert all(taken[label] <= min(rows[label] - 1, int(rows[label] * fraction) + 1) for label in rows)
    assert len(test) <= max(1, round(len(labels) * fraction))


def test_tens_of_thousands_of_labels_take_no_time():
    labels = [f"class {i % 40_000}" for i in range(80_000)]
    start = time.perf_counter()
    assert len(by_label(labels, 0.2, np.random.default_rng(0))) == 16_000
    assert time.perf_counter() - start < 6
