"""Recording of the kernels that a computation starts on a GPU, so that they can be started again at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

_WARM_UPS = 2  # and one more, as torch.cuda.make_graphed_callables has three: libraries choose their kernels then


class Recording(NamedTuple):
    """A computation that was recorded.

    Attributes:
        outputs: the tensors that it gave, which every replay writes to anew.
        replay: computes it again, on what its inputs hold by then.
    """

    outputs: list[Tensor]
    replay: Callable[[], None]


class Recorder(Protocol):
    """What records computations of which one is replayed at a time."""

    def warm_up(self, compute: Callable[[], object]) -> None:
        """Compute what will be recorded, for what happens the first time alone."""

    def record(self, compute: Callable[[], list[Tensor]]) -> Recording:
        """Record a computation. Its inputs, and what it gives, keep their place in memory.

        Raises:
            RuntimeError: it needs a value on the CPU, or memory that there is not.
        """


class CudaGraphs:
    """CUDA graphs that share their memory: of two that are recorded one after another neither needs what the other has
    left there, so that they must not take turns within a pass.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._beside = device, torch.cuda.Stream(device)
        with torch.cuda.device(device):
            self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, compute: Callable[[], object]) -> None:
        """As ``Recorder`` says, on the stream that records: the one that computes cannot."""
        here = torch.cuda.current_stream(self._device)
        self._beside.wait_stream(here)
        with torch.cuda.stream(self._beside):
            for _ in range(_WARM_UPS):
                compute()
            with _without_waiting():
                compute()
        here.wait_stream(self._beside)

    def record(self, compute: Callable[[], list[Tensor]]) -> Recording:
        """As ``Recorder`` says."""
        here = torch.cuda.current_stream(self._device)
        # torch.cuda.graph does not go back to the stream that computes where a capture fails
        with torch.cuda.device(self._device), torch.cuda.stream(here):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._beside):
                outputs = compute()
        return Recording(outputs, graph.replay)


@contextmanager
def _without_waiting() -> Iterator[None]:
    """Inside the block, operators that wait for the device are errors, as they are in a capture: one that fails leaves
    more behind than this does."""
    mode = torch.cuda.get_sync_debug_mode()
    _set_mode("error")
    try:
        yield
    finally:
        _set_mode(mode)


def _set_mode(mode: int | str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it does not detect all of them
        torch.cuda.set_sync_debug_mode(mode)
