"""Ctrl-C in an import: neither lost in a module that catches everything, nor a half-made module."""

import importlib
import signal
import sys
import time

import pytest

from atlas_cli.interrupts import Stopping, interrupts_between_imports


@pytest.fixture(autouse=True)
def interrupted_as_a_program_is():
    """A process of a parallel test run may ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def swallowing(tmp_path, monkeypatch):
    """A module that is interrupted while it is imported, and goes on whatever is raised."""
    (tmp_path / "swallows.py").write_text(
        "import signal\nreached = 0\ntry:\n    signal.raise_signal(signal.SIGINT)\n    reached = 1\n"
        "except BaseException:\n    reached = -1\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "swallows"
    sys.modules.pop("swallows", None)


@pytest.mark.parametrize("handler", [interrupts_between_imports, Stopping])
def test_an_interrupt_in_an_import_comes_when_it_has_ended(handler, swallowing):
    reached = None
    with pytest.raises(KeyboardInterrupt), handler():
        reached = importlib.import_module(swallowing).reached
        for _ in range(500):
            time.sleep(0.01)
    assert reached == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_elsewhere_comes_at_once():
    with pytest.raises(KeyboardInterrupt), interrupts_between_imports():
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the interrupt did not come")


def test_an_ignored_interrupt_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_between_imports():
        signal.raise_signal(signal.SIGINT)
