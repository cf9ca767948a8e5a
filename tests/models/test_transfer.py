"""Copies on a stream of their own: in which order they must happen, and that nothing changes without CUDA."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import support.devices
import torch

from atlas_cli.models.halves.transfer import copies_overlapped, to_device

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


class Told:
    """Stands for torch.cuda and for tensors, and writes down what is asked of them."""

    def __init__(self):
        self.events, self.current = [], "computing"

    def Stream(self, device):
        return "copying"

    @contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before

    def current_stream(self, device):
        name = self.current
        return SimpleNamespace(name=name, wait_stream=lambda other: self.events.append(f"{name} waits for {other}"))

    def tensor(self, where):
        def to(device, non_blocking=False):
            self.events.append(f"{'asynchronous' if non_blocking else 'plain'} copy of {where} while {self.current}")
            return self.tensor("moved")

        def record_stream(stream):
            self.events.append(f"{where} is used by {stream.name}")

        pinned = lambda: self.tensor("pinned")  # noqa: E731
        return SimpleNamespace(device=CPU, to=to, pin_memory=pinned, record_stream=record_stream)


def test_what_computes_waits_for_the_copy_and_keeps_its_memory(monkeypatch):
    told = Told()
    for name in ("Stream", "stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(told, name))
    with copies_overlapped(GPU):
        to_device(told.tensor("pageable"), GPU)
    to_device(told.tensor("pageable"), GPU)
    assert told.events == [
        "asynchronous copy of pinned while copying",
        "computing waits for copying",
        "moved is used by computing",
        "plain copy of pageable while computing",
    ]


def test_without_cuda_nothing_changes():
    x = torch.randn(3)
    with copies_overlapped(CPU):
        assert to_device(x, CPU) is x


@pytest.mark.parametrize("device", ["cpu", support.devices.GPU])
def test_values_arrive_before_they_are_used(device):
    x, device = torch.randn(1 << 22), torch.device(device)
    with copies_overlapped(device):
        sums = [to_device(x + i, device).sum().item() for i in range(8)]
    assert sums == [(x + i).to(device).sum().item() for i in range(8)]
