"""Passes computed side by side, each in a thread with its share of torch's threads.

Operators on a few hundred rows use a second core badly. Where there are several passes, each core takes some of its
own instead: operators release Python's lock while they compute.
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, count, islice
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

MOST = 4  # passes at one time, as each has its graph in memory


def side_by_side(device: torch.device) -> int:
    """How many passes are computed at one time: one for each of torch's threads, ``MOST`` at most; one on a GPU."""
    return min(torch.get_num_threads(), MOST) if device.type == "cpu" else 1


class Workers:
    """Threads that compute, numbered from 0; of one, the caller itself is it.

    Until they are closed torch's threads are shared out among them.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._threads = torch.get_num_threads()
        self._pool: ThreadPoolExecutor | None = None
        self._numbers, self._own = count(), threading.local()

    def close(self) -> None:
        """Wait for what is computed now; what waits is not begun."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(self._threads)  # of threads that begin later

    def in_order(self, compute: Callable[[int, T], R], items: Iterable[T]) -> Iterator[R]:
        """What ``compute`` gives for the number of a worker and each item, in the order of the items.

        An item that is alone is computed by the caller, with all threads. Few items are computed ahead of the one that
        is waited for. Of several errors, that of the first item is raised.
        """
        left = iter(items)
        first = list(islice(left, 2))
        if self.number == 1 or len(first) < 2:
            yield from (compute(0, item) for item in chain(first, left))
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.number, initializer=self._begin)
        waiting: deque[Future[R]] = deque()
        for item in chain(first, left):
            waiting.append(self._submit(self._pool, compute, item))
            if len(waiting) > 2 * self.number:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _submit(self, pool: ThreadPoolExecutor, compute: Callable[[int, T], R], item: T) -> Future[R]:
        context, graphs = contextvars.copy_context(), torch.is_grad_enabled()

        def run() -> R:
            with torch.set_grad_enabled(graphs):  # which is a thread's own
                return compute(self._own.number, item)

        return pool.submit(context.run, run)

    def _begin(self) -> None:
        self._own.number = next(self._numbers)
        torch.set_num_threads(max(1, self._threads // self.number))
