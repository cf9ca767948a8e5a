"""On which stream what is recorded is computed, in which order, and where a capture that fails leaves a run."""

import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from support.devices import GPU

from atlas_cli.models.cuda_graphs.captured import Captured, Lane, departure
from atlas_cli.models.cuda_graphs.graphed_passes import GraphedPasses, graphed_passes
from atlas_cli.models.cuda_graphs.recorder import CudaGraphs

CUDA = torch.device("cuda:1")


class Told:
    """Stands for torch.cuda, and writes down what is asked of it."""

    def __init__(self, fails=False):
        self.events, self.current, self.fails = [], "computing", fails

    def Stream(self, device):
        assert device == CUDA
        return self._stream("recording")

    def current_stream(self, device):
        assert device == CUDA
        return self._stream(self.current)

    def _stream(self, name):
        return SimpleNamespace(
            name=name, wait_stream=lambda other: self.events.append(f"{name} waits for {other.name}")
        )

    @contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream.name
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def device(self, device):
        assert device == CUDA
        yield

    def get_sync_debug_mode(self):
        return 0

    def set_sync_debug_mode(self, mode):
        warnings.warn("Synchronization debug mode is a prototype feature", UserWarning, stacklevel=1)
        self.events.append({"error": "waiting is an error", 0: "waiting is as before"}[mode])

    def graph_pool_handle(self):
        return "pool"

    def CUDAGraph(self):
        return SimpleNamespace(replay=lambda: self.events.append(f"replay while {self.current}"))

    @contextmanager
    def graph(self, graph, *, pool, stream):
        """As torch 2.13 does, which goes back to the stream of before only where a capture ends well."""
        before, self.current = self.current, stream.name
        self.events.append(f"capture in {pool}")
        yield
        if self.fails:
            raise RuntimeError("operation would make the legacy stream depend on a capturing blocking stream")
        self.current = before


@pytest.fixture
def told(monkeypatch):
    def patched(fails=False):
        found = Told(fails)
        for name in (n for n in vars(Told) if not n.startswith("_")):
            monkeypatch.setattr(torch.cuda, name, getattr(found, name))
        return found

    return patched


def test_what_computes_waits_for_a_warm_up_and_replays_what_another_stream_recorded(told):
    found = told()
    graphs = CudaGraphs(CUDA)
    graphs.warm_up(lambda: found.events.append(f"computed while {found.current}"))
    outputs, replay = graphs.record(lambda: found.events.append(f"recorded while {found.current}") or ["output"])
    replay()
    assert outputs == ["output"]
    assert found.events == [
        "recording waits for computing",
        *["computed while recording"] * 2,
        "waiting is an error",
        "computed while recording",
        "waiting is as before",
        "computing waits for recording",
        "capture in pool",
        "recorded while recording",
        "replay while computing",
    ]


def test_what_waits_for_the_device_fails_before_a_capture(told):
    found = told()

    def waits():
        if found.events[-1] == "waiting is an error":
            raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(RuntimeError, match="synchronizing"):
        CudaGraphs(CUDA).warm_up(waits)
    assert found.events[-1] == "waiting is as before" and found.current == "computing"


def test_a_capture_that_fails_leaves_the_stream_that_computes(told):
    found = told(fails=True)
    with pytest.raises(RuntimeError, match="legacy stream"):
        CudaGraphs(CUDA).record(lambda: [])
    assert found.current == "computing"


def test_each_party_has_graphs_of_its_own(told):
    told()
    first, second = graphed_passes(CUDA), graphed_passes(CUDA)
    assert isinstance(first, GraphedPasses) and first is not second


@pytest.mark.parametrize("device", [GPU])
def test_a_graph_computes_what_it_was_captured_of(device):
    device = torch.device(device)
    leaves = [torch.randn(64, 64, device=device, requires_grad=grad) for grad in (True, False, True)]
    mixed = lambda inputs: torch.tanh(inputs[0] @ inputs[1]) @ inputs[2]  # noqa: E731
    captured = Captured(mixed, leaves, CudaGraphs(device), Lane())
    for _ in range(3):
        leaves = [torch.randn(64, 64, device=device, requires_grad=t.requires_grad) for t in leaves]
        assert departure(captured, mixed, leaves) <= 1e-5
