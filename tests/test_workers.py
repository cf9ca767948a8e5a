"""Threads that compute items side by side give what one after another would, in the same order."""

import contextvars
import threading
import time
from contextlib import closing

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atlas_cli import workers
from atlas_cli.workers import Workers, side_by_side

THREADS = 4


@pytest.fixture(autouse=True)
def _threads():
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(1)


@given(items=st.lists(st.integers(0, 3), max_size=12), number=st.integers(1, 4))
def test_results_come_in_the_order_of_the_items(items, number):
    def compute(worker, item):
        assert 0 <= worker < number
        time.sleep(item / 2000)
        return -item

    with closing(Workers(number)) as threads:
        assert list(threads.in_order(compute, items)) == [-item for item in items]


def test_as_many_are_computed_at_one_time_as_there_are_workers():
    together = threading.Barrier(2)  # breaks, after its timeout, where one waits for the other to end
    with closing(Workers(2)) as threads:
        seen = list(threads.in_order(lambda worker, _: (together.wait(20), worker)[1], range(2)))
    assert sorted(seen) == [0, 1]


def test_the_error_of_the_first_item_is_raised_and_what_waits_is_not_begun():
    later, begun = threading.Event(), []

    def compute(_, item):
        begun.append(item)
        if item == 0:
            later.wait(20)  # until another has failed
            raise ValueError("first")
        later.set()
        raise ValueError(f"of {item}")

    with pytest.raises(ValueError, match="first"), closing(Workers(2)) as threads:
        list(threads.in_order(compute, range(100)))
    assert len(begun) < 10


def test_few_items_are_computed_ahead():
    taken = []

    def items():
        for item in range(50):
            taken.append(item)
            yield item

    with closing(Workers(2)) as threads:
        computed = threads.in_order(lambda _, item: item, items())
        assert [next(computed) for _ in range(3)] == [0, 1, 2]
        assert len(taken) < 10


def test_threads_share_what_torch_has_and_an_item_by_itself_has_all():
    def share(*_):
        return torch.get_num_threads()

    with closing(Workers(2)) as threads:
        assert list(threads.in_order(share, [0])) == [THREADS]
        assert list(threads.in_order(share, range(3))) == [THREADS // 2] * 3
    assert torch.get_num_threads() == THREADS
    found = []
    fresh = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    fresh.start()
    fresh.join()
    assert found == [THREADS]  # one that begins later has its share of nobody


def test_whether_graphs_are_built_and_context_are_the_callers():
    mark = contextvars.ContextVar("mark")
    mark.set("here")
    with closing(Workers(2)) as threads, torch.no_grad():
        seen = list(threads.in_order(lambda *_: (torch.is_grad_enabled(), mark.get()), range(3)))
    assert seen == [(False, "here")] * 3


def test_as_many_passes_as_threads_up_to_a_bound_and_one_on_a_gpu(monkeypatch):
    assert side_by_side(torch.device("cpu")) == THREADS
    assert side_by_side(torch.device("meta")) == 1
    monkeypatch.setattr(workers, "MOST", 3)
    assert side_by_side(torch.device("cpu")) == 3
