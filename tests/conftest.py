"""Fixtures for all tests."""

from __future__ import annotations

import functools
import gc
from pathlib import Path

import pytest
import torch
import typer
from support.tiny_models import CAUSAL, tiny_model, word_tokenizer

from atlas_cli.runs import manifest

ROOT = Path(__file__).resolve().parents[1]

pytest_plugins = ["support.federations", "support.installed", "support.browser", "support.trained_runs"]


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Modules and tests stay until the end: no garbage collection walks over them, now or while tests run."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items):
    """What may take a minute comes first (packaged models, and the pages of the docs): at the end one worker would wait
    for it with nothing to do."""
    items.sort(key=lambda item: item.get_closest_marker("packaged") is None and item.path.parent != ROOT / "tests")


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_disks():
    """No test can cut the power: whether files are whole after a kill does not depend on when the disk has them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _command_line_built_once():
    """Typer makes all commands anew at each call of ``main``, which is a tenth of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.main.get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(autouse=True, scope="session")
def _checkout_looked_at_once():
    """Three calls of git a run, of a checkout that no test changes."""
    ask, known = manifest._git_output, functools.cache(manifest._git_output)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "_git_output", lambda folder, *rest: (known if folder == ROOT else ask)(folder, *rest))
        yield


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """``model_folder("gpt2")``: a folder as save_pretrained writes it, with a tokenizer; made once a session."""
    made = {}

    def make(family: str) -> str:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            tiny_model(family).save_pretrained(folder)
            word_tokenizer(family in CAUSAL).save_pretrained(folder)
            made[family] = str(folder)
        return made[family]

    return make
