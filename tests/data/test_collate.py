from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_cli import tasks
from atlas_cli.data.collate import batch_indices, collate, evaluation_batches, pad_token_id

property_test = settings(max_examples=50, deadline=None, derandomize=True)
sizes = st.integers(1, 40)


def test_pads_right_to_the_longest():
    task = tasks.build("sequence-classification", ["a", "b"])
    features = [{"input_ids": [5, 6, 7], "labels": 1}, {"input_ids": [8], "labels": 0}]
    batch = collate(task, features, 9)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.labels.tolist() == [1, 0]
    assert batch.token_type_ids is None and batch.features == features
    assert (batch.n_examples, batch.n_tokens) == (2, 4)
    assert batch.input_ids.dtype == batch.attention_mask.dtype == batch.labels.dtype == torch.int64


def test_segments_where_some_example_has_them():
    task = tasks.build("sequence-classification", ["a", "b"])
    features = [{"input_ids": [5, 6, 7], "token_type_ids": [0, 1, 1], "labels": 1}, {"input_ids": [8], "labels": 0}]
    assert collate(task, features, 0).token_type_ids.tolist() == [[0, 1, 1], [0, 0, 0]]


def test_token_labels_are_ignored_on_padding():
    batch = collate(
        tasks.build("causal-lm"), [{"input_ids": [5, 6], "labels": [5, 6]}, {"input_ids": [7], "labels": [7]}], 0
    )
    assert batch.labels.tolist() == [[5, 6], [7, -100]]


@pytest.mark.parametrize(
    ("pad", "end", "unknown", "expected"), [(0, 1, 2, 0), (None, 1, 2, 1), (None, None, 2, 2), (None, None, None, 0)]
)
def test_pad_token_falls_back(pad, end, unknown, expected):
    assert pad_token_id(SimpleNamespace(pad_token_id=pad, eos_token_id=end, unk_token_id=unknown)) == expected


@property_test
@given(lengths=st.lists(sizes, min_size=1, max_size=60), batch_size=st.integers(1, 7), epoch=st.integers(0, 3))
def test_every_example_once_an_epoch(lengths, batch_size, epoch):
    steps = -(-len(lengths) // batch_size)
    batches = [batch_indices(lengths, batch_size, 0, "phone-1", epoch * steps + i) for i in range(steps)]
    assert sorted(len(batch) for batch in batches)[1:] == [batch_size] * (steps - 1)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))


def test_batches_depend_on_seed_client_and_epoch_only():
    def epoch(seed, client, first):
        return [batch_indices([3] * 50, 8, seed, client, first + i) for i in range(7)]

    base = epoch(0, "phone-1", 0)
    assert base == epoch(0, "phone-1", 0)
    for other in (epoch(1, "phone-1", 0), epoch(0, "phone-2", 0), epoch(0, "phone-1", 7)):
        assert other != base


def test_batches_hold_examples_of_like_length_in_no_order_of_length():
    lengths = [5 + 7 * i % 90 for i in range(640)]  # 5 to 94, mixed
    batches = [batch_indices(lengths, 16, 0, "phone-1", i) for i in range(40)]
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
    assert padded < 1.2 * sum(lengths)  # 1.8 times without sorting
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)


@property_test
@given(lengths=st.lists(sizes, max_size=30), batch_size=sizes)
def test_evaluation_takes_all_once_longest_first(lengths, batch_size):
    features = [{"input_ids": [1] * length} for length in lengths]
    batches = list(evaluation_batches(features, batch_size))
    order = [i for batch in batches for i in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    assert all(len(batch) == batch_size for batch in batches[:-1])


@property_test
@given(st.lists(sizes, min_size=1, max_size=60), st.integers(1, 8), st.integers(1, 100))
def test_evaluation_batches_hold_so_many_tokens_and_no_more(lengths, batch_size, max_tokens):
    batches = list(evaluation_batches([{"input_ids": [1] * length} for length in lengths], batch_size, max_tokens))
    assert [lengths[i] for batch in batches for i in batch] == sorted(lengths, reverse=True)
    for batch in batches:
        longest = lengths[batch[0]]
        assert len(batch) == 1 or (len(batch) <= batch_size and len(batch) * longest <= max_tokens)
    for batch in batches[:-1]:  # none could have taken one more
        assert len(batch) == batch_size or (len(batch) + 1) * lengths[batch[0]] > max_tokens
