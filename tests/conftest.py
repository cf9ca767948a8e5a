"""Fixtures for all tests."""

from __future__ import annotations

import functools

import pytest
import torch
import typer
from support.tiny_models import CAUSAL, tiny_model, word_tokenizer

pytest_plugins = ["support.federations", "support.installed", "support.browser", "support.trained_runs"]


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
